"""Bad input: what was given, what is allowed, what to do, and where in the tree."""

import re
from typing import Any, NamedTuple

import pytest
import torch
from catalogue import ALGORITHMS, LINKS, rows
from trees import assert_equal, random_like

import optimfx as fx


class Averages(NamedTuple):
    step: Any
    mu: Any
    average: Any


PARAMS = {"embed": torch.ones(2), "layers": [torch.ones(3), torch.ones(1)]}
ADAMW = fx.adamw()
STATE = ADAMW.init(PARAMS)
INJECTED = fx.inject_hyperparams(fx.adam)(lr=0.1)
BEGUN = INJECTED.init(PARAMS)

# An action, the exception that it raises, and parts of the message.
TREES = {
    "gradient missing": (
        lambda: fx.step(ADAMW, {"embed": torch.ones(2)}, STATE, PARAMS),
        ValueError,
        ["updates does not have the structure of params", "'layers'", "a leaf without a value is None"],
    ),
    "gradient of another kind": (
        lambda: fx.step(ADAMW, {"embed": torch.ones(2), "layers": (torch.ones(3), torch.ones(1))}, STATE, PARAMS),
        ValueError,
        ["updates does not have the structure of params", "updates['layers']", "list", "tuple"],
    ),
    "gradient too many": (
        lambda: fx.step(ADAMW, {"embed": torch.ones(2), "layers": [torch.ones(3)] * 3}, STATE, PARAMS),
        ValueError,
        ["updates['layers']", "2", "3"],
    ),
    "gradient that is a tree": (
        lambda: fx.step(ADAMW, {**PARAMS, "embed": [torch.ones(2)]}, STATE, PARAMS),
        TypeError,
        ["updates['embed'] is a list", "must be a tensor or None"],
    ),
    "gradient of another shape": (
        lambda: fx.step(ADAMW, {"embed": torch.ones(2), "layers": [torch.ones(1), torch.ones(1)]}, STATE, PARAMS),
        ValueError,
        ["updates['layers'][0] has shape (1,)", "params['layers'][0] has shape (3,)"],
    ),
    "gradient without parameter": (
        lambda: fx.step(ADAMW, PARAMS, STATE, {**PARAMS, "embed": None}),
        ValueError,
        ["updates['embed'] has shape (2,)", "params['embed'] is None"],
    ),
    "integer gradient": (
        lambda: fx.step(ADAMW, {**PARAMS, "embed": torch.ones(2, dtype=torch.int64)}, STATE, PARAMS),
        TypeError,
        ["updates['embed'] has dtype torch.int64", "floating-point and complex"],
    ),
    "parameter of another shape than its state": (
        lambda: fx.step(ADAMW, {**PARAMS, "embed": torch.ones(9)}, STATE, {**PARAMS, "embed": torch.ones(9)}),
        ValueError,
        ["state.exp_avg['embed'] has shape (2,)", "updates['embed'] has shape (9,)", "adamw's init"],
    ),
    "module for parameters": (
        lambda: fx.step(ADAMW, PARAMS, STATE, torch.nn.Linear(2, 2)),
        TypeError,
        ["params is a Linear", "dict(model.named_parameters())"],
    ),
    "generator for parameters": (
        lambda: ADAMW.init(torch.nn.Linear(2, 2).parameters()),
        TypeError,
        ["params is a generator", "dict(model.named_parameters())"],
    ),
    "class that nobody registered": (
        lambda: ADAMW.init({"layer": object()}),
        TypeError,
        ["params['layer'] is a object", "register_pytree_node"],
    ),
    "integer parameter at a step": (
        lambda: fx.step(fx.sgd(), [torch.ones(2)], fx.sgd().init([torch.ones(2)]), [torch.arange(2)]),
        TypeError,
        ["params[0] has dtype torch.int64"],
    ),
    "real gradient of a complex parameter": (
        lambda: fx.step(
            fx.sgd(), [torch.ones(2)], fx.sgd().init([torch.ones(2)]), [torch.ones(2, dtype=torch.complex64)]
        ),
        TypeError,
        ["updates[0] has dtype torch.float32", "params[0] has dtype torch.complex64"],
    ),
    "complex update of a real parameter": (
        lambda: fx.apply_updates([torch.ones(2)], [torch.ones(2, dtype=torch.complex64)]),
        TypeError,
        ["updates[0] has dtype torch.complex64", "params[0] has dtype torch.float32"],
    ),
    "parameter that is a number at a step": (
        lambda: fx.apply_updates({"w": 1.0}, {"w": torch.ones(())}),
        TypeError,
        ["params['w'] is 1.0 (a float)", "torch.as_tensor"],
    ),
    "state of a chain with names": (
        lambda: fx.step(fx.chain(fx.sgd()), PARAMS, {"sgd": fx.sgd().init(PARAMS)}, PARAMS),
        ValueError,
        ["a state with the entries [0]"],
    ),
    "injected value that was not": (
        lambda: fx.step(
            INJECTED, PARAMS, BEGUN._replace(hyperparams={**BEGUN.hyperparams, "weight_decay": 0.1}), PARAMS
        ),
        ValueError,
        ["state.hyperparams has ['weight_decay']", "['lr', 'betas', 'eps']"],
    ),
    "integer parameter": (
        lambda: ADAMW.init({**PARAMS, "embed": torch.arange(3)}),
        TypeError,
        ["params['embed'] has dtype torch.int64", "Put None in its place"],
    ),
    "parameter that is not a tensor": (
        lambda: ADAMW.init({**PARAMS, "layers": [torch.ones(3), 1.5]}),
        TypeError,
        ["params['layers'][1] is 1.5 (a float)", "torch.as_tensor"],
    ),
    "state of other parameters": (
        lambda: fx.step(ADAMW, PARAMS, ADAMW.init({"embed": torch.ones(2)}), PARAMS),
        ValueError,
        ["state.step does not have the structure of params", "'layers'"],
    ),
    "state without the leaf": (
        lambda: fx.step(ADAMW, PARAMS, ADAMW.init({**PARAMS, "embed": None}), PARAMS),
        ValueError,
        ["state.step['embed'] is missing", "updates['embed'] is a tensor", "must come from init"],
    ),
    "state without a slot of the leaf": (
        lambda: fx.step(ADAMW, PARAMS, STATE._replace(exp_avg={**STATE.exp_avg, "embed": ()}), PARAMS),
        ValueError,
        ["state.exp_avg['embed'] is missing", "updates['embed'] is a tensor", "must come from init"],
    ),
    "state begun without momentum": (
        lambda: fx.step(fx.sgd(momentum=0.9), PARAMS, fx.sgd().init(PARAMS), PARAMS),
        ValueError,
        ["state.momentum_buffer is missing, which sgd keeps with these hyperparameters", "init(params)"],
    ),
    "state begun without these parameters": (
        lambda: fx.step(ADAMW, PARAMS, ADAMW.init({"embed": None, "layers": [None, None]}), PARAMS),
        ValueError,
        ["state.step['embed'] is missing", "must come from init"],
    ),
    "state of another algorithm": (
        lambda: fx.step(ADAMW, PARAMS, fx.sgd().init(PARAMS), PARAMS),
        TypeError,
        ["adamw: the state must be of type AdamState; got SGDState", "that init or the last update returned"],
    ),
    "state of another chain": (
        lambda: fx.step(fx.chain(ADAMW, ADAMW), PARAMS, (STATE,), PARAMS),
        ValueError,
        ["a chain of 2 links", "that init or the last update returned"],
    ),
    "state of another partition": (
        lambda: fx.step(fx.masked(ADAMW, True), PARAMS, STATE, PARAMS),
        ValueError,
        ["PartitionState for [True, False]", "AdamState"],
    ),
    "state that was not injected": (
        lambda: fx.step(fx.inject_hyperparams(fx.adamw)(), PARAMS, STATE, PARAMS),
        TypeError,
        ["InjectHyperparamsState; got AdamState"],
    ),
    "apply_updates of another structure": (
        lambda: fx.apply_updates(PARAMS, {"embed": torch.ones(2)}),
        ValueError,
        ["updates does not have the structure of params", "'layers'"],
    ),
    "apply_updates of another shape": (
        lambda: fx.apply_updates(PARAMS, {**PARAMS, "embed": torch.ones(1)}),
        ValueError,
        ["updates['embed'] has shape (1,)", "params['embed'] has shape (2,)"],
    ),
    "apply_updates of numbers": (
        lambda: fx.apply_updates(PARAMS, {**PARAMS, "embed": 2}),
        TypeError,
        ["updates['embed'] is 2 (a int)"],
    ),
}

PARTITIONS = {
    "label without transform": (
        lambda: fx.partition({"a": fx.sgd(), "b": fx.adam()}, {"embed": "a", "layers": ["b", "c"]}).init(PARAMS),
        ["labels['layers'][1] is 'c'", "no transform", "['a', 'b']"],
    ),
    "labels of another structure": (
        lambda: fx.partition({"a": fx.sgd()}, {"embed": "a"}).init(PARAMS),
        ["labels is not a prefix of params", "'layers'"],
    ),
    "labels deeper than the parameters": (
        lambda: fx.partition({"a": fx.sgd()}, {"embed": ["a"], "layers": "a"}).init(PARAMS),
        ["labels is not a prefix of params", "labels['embed']"],
    ),
    "mask that is not a bool": (
        lambda: fx.masked(fx.sgd(), {"embed": True, "layers": "yes"}).init(PARAMS),
        ["mask['layers'][0] is 'yes'", "[True, False]"],
    ),
}

HYPERPARAMETERS = {
    "negative lr": (lambda: fx.sgd(lr=-1), ValueError, "lr must be in [0, inf); got -1."),
    "lr that is nan": (lambda: fx.adam(lr=float("nan")), ValueError, "lr must be in [0, inf); got nan."),
    "lr that is not a number": (
        lambda: fx.sgd(lr="fast"),
        TypeError,
        "lr must be a number, a 0-d tensor or a schedule (step -> value); got 'fast'.",
    ),
    "lr that is a bool": (
        lambda: fx.sgd(lr=True),
        TypeError,
        "lr must be a number, a 0-d tensor or a schedule (step -> value); got True.",
    ),
    "lr that is not 0-d": (
        lambda: fx.adam(lr=torch.tensor([0.1, 0.2])),
        ValueError,
        "lr is a tensor of shape (2,); a tensor hyperparameter must be 0-d. For one value per model, map over it with "
        "torch.vmap.",
    ),
    "first beta": (lambda: fx.adam(betas=(1.0, 0.9)), ValueError, "betas[0] must be in [0, 1); got 1.0."),
    "second beta": (lambda: fx.lion(betas=(0.9, -0.1)), ValueError, "betas[1] must be in [0, 1); got -0.1."),
    "one beta": (lambda: fx.adamw(betas=0.9), TypeError, "betas must be (beta1, beta2); got 0.9."),
    "two betas of three": (
        lambda: fx.adan(betas=(0.9, 0.9)),
        TypeError,
        "betas must be (beta1, beta2, beta3); got (0.9, 0.9).",
    ),
    "eps": (lambda: fx.adam(eps=-1e-8), ValueError, "eps must be in [0, inf); got -1e-08."),
    "weight_decay": (lambda: fx.lion(weight_decay=-1), ValueError, "weight_decay must be in [0, inf); got -1."),
    "alpha": (lambda: fx.rmsprop(alpha=1.5), ValueError, "alpha must be in [0, 1); got 1.5."),
    "nesterov without momentum": (
        lambda: fx.sgd(nesterov=True),
        ValueError,
        "nesterov=True needs momentum > 0 and dampening = 0; got momentum=0.0, dampening=0.0.",
    ),
    "rho": (lambda: fx.adadelta(rho=1.5), ValueError, "rho must be in [0, 1); got 1.5."),
    "one eta": (lambda: fx.rprop(etas=0.5), TypeError, "etas must be (etaminus, etaplus); got 0.5."),
    "three step sizes": (
        lambda: fx.rprop(step_sizes=(1, 2, 3)),
        TypeError,
        "step_sizes must be (step_size_min, step_size_max); got (1, 2, 3).",
    ),
    "etaminus": (lambda: fx.rprop(etas=(1.0, 1.2)), ValueError, "etas[0] must be in [0, 1); got 1.0."),
    "etaplus": (lambda: fx.rprop(etas=(0.5, 0.9)), ValueError, "etas[1] must be in [1, inf); got 0.9."),
    "max_norm": (lambda: fx.clip_by_global_norm(-1.0), ValueError, "max_norm must be in [0, inf); got -1.0."),
    "clip_value": (lambda: fx.clip_by_value(-1.0), ValueError, "clip_value must be in [0, inf); got -1.0."),
    "decay": (lambda: fx.ema(1.0), ValueError, "decay must be in [0, 1); got 1.0."),
    "schedule": (
        lambda: fx.scale_by_schedule(0.1),
        TypeError,
        "schedule must be a function of the step; got 0.1. For a constant, use scale.",
    ),
    "names of a chain": (
        lambda: fx.named_chain(("a", fx.sgd()), ("a", fx.sgd())),
        ValueError,
        "the names of a named_chain must differ; got ['a', 'a'].",
    ),
    "static_args": (
        lambda: fx.inject_hyperparams(fx.sgd, static_args=["learning_rate"]),
        ValueError,
        "static_args names ['learning_rate'], but the arguments are ['lr', 'momentum', 'dampening', 'weight_decay', "
        "'nesterov', 'maximize', 'state_dtype'].",
    ),
    "state_dtype": (
        lambda: fx.adam(state_dtype=torch.int8),
        TypeError,
        "state_dtype must be a floating-point torch.dtype or None; got torch.int8.",
    ),
    "beta2_decay": (
        lambda: fx.adafactor(beta2_decay=0.5),
        ValueError,
        "beta2_decay must be in [-inf, 0]; got 0.5.",
    ),
    "eps of a pair": (lambda: fx.adafactor(eps=1e-3), TypeError, "eps must be (eps1, eps2); got 0.001."),
    "eps1": (lambda: fx.adafactor(eps=(-1.0, 1e-3)), ValueError, "eps1 must be in [0, inf); got -1.0."),
    "d": (lambda: fx.adafactor(d=0.5), ValueError, "d must be in [1, inf); got 0.5."),
    "adjust_lr_fn": (
        lambda: fx.muon(adjust_lr_fn="rms"),
        ValueError,
        "adjust_lr_fn must be None, 'original' or 'match_rms_adamw'; got 'rms'.",
    ),
    "ns_steps": (lambda: fx.muon(ns_steps=100), ValueError, "ns_steps must be an integer in [0, 100); got 100."),
    "ns_steps that is not a count": (
        lambda: fx.muon(ns_steps=2.5),
        ValueError,
        "ns_steps must be an integer in [0, 100); got 2.5.",
    ),
    "ns_coefficients": (
        lambda: fx.muon(ns_coefficients=(1.0, 2.0)),
        TypeError,
        "ns_coefficients must be (a, b, c); got (1.0, 2.0).",
    ),
    "a vector for Muon": (
        lambda: fx.muon().init(PARAMS),
        ValueError,
        "params['embed'] has shape (2,) and dtype torch.float32, but only matrices are made orthogonal. Give other "
        "leaves to another optimizer: fx.partition with fx.is_matrix.",
    ),
    "a complex matrix for Adafactor": (
        lambda: fx.adafactor().init({"w": torch.ones(2, 2, dtype=torch.complex64)}),
        ValueError,
        "params['w'] has shape (2, 2) and dtype torch.complex64, but adafactor factors the second moment of real "
        "matrices.",
    ),
    "an injected value": (
        lambda: fx.inject_hyperparams(fx.sgd)(lr=-1.0),
        ValueError,
        "lr must be in [0, inf); got -1.0.",
    ),
    "executor": (
        lambda: fx.execution.use("fast").__enter__(),
        ValueError,
        "there is no executor 'fast'; choose one of aten, batched, blocked, compiled, eager, foreach, triton.",
    ),
    "hyperparameter of a rule": (
        lambda: fx.transformation("mine", fx.Rule(lambda *args: args, lambda step, lr, eps: lr), lr=0.1),
        TypeError,
        "mine: missing hyperparameters ['eps'], which the functions of the rule take.",
    ),
    "slots of a rule": (
        lambda: fx.Rule(lambda base, param, grad, mean, s: (base, mean), lambda step: (), state=Averages),
        TypeError,
        "the leaf of the rule of test_errors takes the slots ('mean',), but those of its state are ('mu', 'average').",
    ),
    "what a rule carries": (
        lambda: fx.Rule(lambda *args: args, lambda step, mu: (), state=Averages, carries=("average",)),
        TypeError,
        "the rule of test_errors carries ('average',), which must be the fields of its state after step.",
    ),
    "what a rule needs": (
        lambda: fx.Rule(lambda *args: args, lambda step: (), needs_global_norm=True),
        TypeError,
        "the scalars of the rule of test_errors must take ['global_norm'], which the rule says that it needs.",
    ),
}


# Something given for a transformation, and the message.
NO_TRANSFORMATIONS = {
    "factory in a chain": (lambda: fx.chain(fx.sgd(), fx.adam), "chain: links[1]", "Call it first, as in adam(...)."),
    "list in a chain": (lambda: fx.chain([fx.sgd()]), "chain: links[0]", "[sgd(lr=0.001)]"),
    "link without a name": (lambda: fx.named_chain(fx.sgd()), "named_chain: links[0]", "a pair (name, transformation)"),
    "named factory": (lambda: fx.named_chain(("a", fx.sgd)), "named_chain: 'a'", "Call it first"),
    "factory for a label": (lambda: fx.partition({"a": fx.sgd}, "a"), "partition: 'a'", "Call it first"),
    "masked factory": (lambda: fx.masked(fx.sgd, True), "masked: inner", "Call it first"),
    "factory in multi_steps": (lambda: fx.multi_steps(fx.sgd, 2), "multi_steps: inner", "Call it first"),
    "step of a factory": (lambda: fx.step(fx.sgd, PARAMS, (), PARAMS), "tx must be", "Call it first"),
    "injection into what is made": (
        lambda: fx.inject_hyperparams(fx.sgd()),
        "takes a factory",
        "inject_hyperparams(fx",
    ),
    "parameters for lr": (lambda: fx.adam(iter([torch.ones(1)]), 0.1), "lr must be", "Parameters go to init"),
}


@pytest.mark.parametrize("name", NO_TRANSFORMATIONS)
def test_combinators_refuse_what_is_no_transformation(name):
    call, *parts = NO_TRANSFORMATIONS[name]
    with pytest.raises(TypeError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("make", [fx.optim.AdamW, lambda params: fx.optim.TransformOptimizer(params, fx.adamw())])
def test_a_checkpoint_of_a_larger_model_is_refused_before_anything_is_written(make):
    """torch's own kernels write where they are told to."""
    saved, model = torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)
    optimizers = [make(module.parameters()) for module in (saved, model)]
    for module, optimizer in zip((saved, model), optimizers):
        module(torch.ones(64)).sum().backward()
        optimizer.step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises((RuntimeError, ValueError), match=r"exp_avg.* has shape .*(\(2, 64\)|\(64, 64\))"):
        optimizers[1].step()
    assert_equal([p.detach() for p in model.parameters()], before)


@pytest.mark.parametrize("name", TREES)
def test_trees_that_do_not_fit(name):
    call, kind, parts = TREES[name]
    with pytest.raises(kind) as error:
        call()
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", PARTITIONS)
def test_labels_that_do_not_fit(name):
    call, parts = PARTITIONS[name]
    with pytest.raises(ValueError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_hyperparameters_out_of_range_are_refused(name):
    call, kind, message = HYPERPARAMETERS[name]
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


READS_PARAMS = [
    *(row for row in ALGORITHMS if row.takes("weight_decay")),
    *(row for row in LINKS if row.reads_param(row.richest)),
]


@rows(READS_PARAMS)
def test_params_missing_where_they_are_needed(row):
    tx = row(**{**row.richest, **({"weight_decay": 0.1} if row.takes("weight_decay") else {})})
    params = row.params()
    with pytest.raises(ValueError, match=rf"^{row.name} needs the parameters here"):
        tx.update(params, tx.init(params))


def without_decay(row):
    return {**row.richest, **({"weight_decay": 0.0} if row.takes("weight_decay") else {})}


@rows([row for row in ALGORITHMS if not row.reads_param(without_decay(row))])
def test_params_are_not_needed_without_decay(row):
    """``update(grads, state)`` gives what it gives with the parameters."""
    tx = row(**without_decay(row))
    params = row.params()
    grads, state = random_like(params), tx.init(params)
    assert_equal(tx.update(grads, state), tx.update(grads, state, params))


@rows()
@pytest.mark.parametrize("lr", [-1.0, "fast", None, torch.ones(2)], ids=str)
def test_every_algorithm_checks_its_lr(row, lr):
    with pytest.raises((ValueError, TypeError), match=r"^lr "):
        row(lr=lr)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: fx.adamw(learning_rate=1e-3), r"adamw has no argument 'learning_rate': here it is lr"),
        (lambda: fx.adam(b2=0.9), r"adam has no argument 'b2': here it is the second of betas"),
        (lambda: fx.describe(fx.adamw), r"describe: tx must be .* Call it first"),
        (lambda: fx.explain(fx.adamw, []), r"explain: tx must be a GradientTransformation.* Call it first"),
        (lambda: fx.explain(fx.adamw(), torch.nn.Linear(2, 1)), r"params .*dict\(model\.named_parameters\(\)\)"),
    ],
)
def test_what_users_of_optax_and_torch_write_is_told_apart(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_names_of_optax_are_told_ours():
    with pytest.raises(AttributeError, match=r"no attribute 'MultiSteps'; Optax's MultiSteps is fx.multi_steps"):
        fx.MultiSteps  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        fx.nothing  # noqa: B018
    assert all(ours.partition(",")[0] in fx.__all__ for ours in fx.OPTAX_NAMES.values())
    assert "core" not in dir(fx) and {"adamw", "chain"} <= {*dir(fx)}
