"""torch.compile: one graph, the eager result, and no recompilation when a number changes."""

import inspect
import shutil
from functools import partial

import optree
import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, each_value, rows
from trees import assert_equal, leaves, params_like, random_like, stack

import optimfx as fx

CLOSE = dict(rtol=1e-12, atol=1e-12)
"""Compiled scalars are tensors: the same formulas, a few roundings apart in each of the steps."""


def compiled(function, backend="eager"):
    return torch.compile(function, fullgraph=True, backend=backend)


def two_leaves(row, dtype=torch.float64):
    """With elements and without dimensions: more of them would be compiled one by one, each for as long."""
    return {"w": row.randn(3, 2, dtype=dtype), "s": [row.randn(dtype=dtype)]}


@cases(ALGORITHMS + LINKS, where=each_value, column="compile")
def test_one_graph_for_every_step(row, options, fresh_compiler):
    """Five steps, the count rising, through one graph; none, where there is nothing to compute."""
    tx = row(**options)
    step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params))
    params = two_leaves(row)
    state = tx.init(params)
    expected, expected_state = params, state
    for _ in range(5):
        grads = random_like(params)
        params, state = step(grads, state, params)
        expected, expected_state = fx.step(tx, grads, expected_state, expected)
    assert_equal((params, state), (expected, expected_state), **CLOSE)
    assert fresh_compiler["stats"]["unique_graphs"] <= 1


def at_step(row, step):
    """What changes from step to step: the learning rate and, where there are any, betas and weight decay."""
    betas = inspect.signature(row.factory).parameters.get("betas")
    changing = {"lr": 0.1 / (step + 1)}
    if betas is not None:
        changing["betas"] = tuple(beta * (1 - 0.1 * step) for beta in betas.default)
    if row.takes("weight_decay"):
        changing["weight_decay"] = 0.1 / (step + 2)
    return changing


def as_tensors(values):
    return optree.tree_map(lambda value: torch.tensor(value, dtype=torch.float64), values)


@rows(column="recompiles")
@pytest.mark.parametrize("how", ["argument", "in the state", "schedule"])
def test_no_recompilation_when_a_hyperparameter_changes(row, how, fresh_compiler, figure):
    first = at_step(row, 0)
    options = {name: value for name, value in row.richest.items() if name not in first}
    params = two_leaves(row)
    grads = random_like(params)

    if how == "argument":
        tx = row(**first, **options)
        step = compiled(
            lambda changing, grads, state, params: fx.step(row(**changing, **options), grads, state, params)
        )
    elif how == "in the state":
        tx = fx.inject_hyperparams(row.factory)(**first, **options)
        step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params))
    else:
        # One schedule for each number, in a pair of betas too.
        leaves, spec = optree.tree_flatten(first)
        schedules = [lambda step, i=i: optree.tree_leaves(at_step(row, step))[i] for i in range(len(leaves))]
        tx = row(**optree.tree_unflatten(spec, schedules), **options)
        step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params))

    state = tx.init(params)
    expected, expected_state = params, row(**first, **options).init(params)
    for i in range(4):
        changing = at_step(row, i)
        if how == "in the state":
            state.hyperparams.update(as_tensors(changing))
        arguments = (as_tensors(changing),) if how == "argument" else ()
        params, state = step(*arguments, grads, state, params)
        expected, expected_state = fx.step(row(**changing, **options), grads, expected_state, expected)
    assert_equal(params, expected, **CLOSE)
    recompiles = fresh_compiler["stats"]["unique_graphs"] - 1
    figure(recompiles)
    assert recompiles == 0


needs_cpp = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="Inductor compiles C++, and there is no compiler"
)

CHAIN = fx.chain(
    fx.clip_by_global_norm(1.0),
    fx.scale_by_adam(),
    fx.masked(fx.add_decayed_weights(0.1), lambda params: {name: name == "w" for name in params}),
    fx.scale_by_lr(fx.schedules.warmup_cosine(0.1, 2, 10)),
)


@needs_cpp
@pytest.mark.parametrize(
    "tx, params",
    [*((row(**row.richest), partial(two_leaves, row)) for row in ALGORITHMS), (CHAIN, params_like)],
    ids=[*(row.name for row in ALGORITHMS), "chain"],
)
def test_inductor(tx, params, fresh_compiler):
    """The whole step through the real compiler, in float32: within 16 ulp of eager over three steps."""
    step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params), "inductor")
    params = params(torch.float32)
    state = tx.init(params)
    expected, expected_state = params, state
    for _ in range(3):
        grads = random_like(params)
        params, state = step(grads, state, params)
        expected, expected_state = fx.step(tx, grads, expected_state, expected)
    tolerance = 16 * torch.finfo(torch.float32).eps
    assert_equal((params, state), (expected, expected_state), rtol=tolerance, atol=tolerance)
    assert fresh_compiler["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("inplace", [False, True])
def test_a_vmapped_step_compiles(inplace, fresh_compiler):
    tx = fx.inject_hyperparams(fx.adamw)(lr=0.1)
    members = [params_like() for _ in range(3)]
    gradients = [random_like(params) for params in members]

    def step(grads, state, params):
        return torch.vmap(lambda g, s, p: fx.step(tx, g, s, p, inplace=inplace))(grads, state, params)

    def run(step):
        state = torch.vmap(tx.init)(stack(members))
        state.hyperparams["lr"] = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        return step(stack(gradients), state, stack(members))

    assert_equal(run(compiled(step)), run(step), **CLOSE)


@rows()
def test_in_place(row, fresh_compiler):
    tx = row(**row.richest)
    params = two_leaves(row)
    grads = random_like(params)
    expected = fx.step(tx, grads, tx.init(params), params)
    step = compiled(lambda g, s, p: fx.step(tx, g, s, p, inplace=True), "aot_eager")
    result = step(grads, tx.init(params), params)
    assert_equal(result, expected, **CLOSE)
    for given, after in zip(leaves(params), leaves(result[0])):
        assert (given is after) == (given.dim() > 0)  # torch.compile loses writes to 0-d float64 tensors
        assert given.dim() == 0 or torch.equal(given, after)


PARTITIONED = {
    "by a tree": {"w": "a", "layers": ["b", ("a", {"b": "b"})], "none": "b"},
    "by a prefix": {"w": "a", "layers": "b", "none": "b"},
    "by a function": lambda params: {name: "a" if name == "w" else "b" for name in params},
}


@pytest.mark.parametrize("labels", PARTITIONED.values(), ids=PARTITIONED.keys())
def test_partition(labels, fresh_compiler):
    tx = fx.partition({"a": fx.adam(), "b": fx.sgd(momentum=0.9)}, labels)
    params = params_like()
    grads, state = random_like(params), tx.init(params)
    result = compiled(lambda g, s, p: fx.step(tx, g, s, p))(grads, state, params)
    assert_equal(result, fx.step(tx, grads, state, params), **CLOSE)


def test_execution_use_has_no_effect_inside(fresh_compiler):
    tx = fx.sgd()
    params = params_like()
    with fx.execution.use("foreach"):
        result = compiled(lambda g, s, p: fx.step(tx, g, s, p))(params, tx.init(params), params)
    assert_equal(result, fx.step(tx, params, tx.init(params), params))


def test_a_leaf_without_gradient(fresh_compiler):
    tx = fx.adam()
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    grads = {"a": torch.ones(2), "b": None}
    step = compiled(lambda g, s, p: fx.step(tx, g, s, p))
    state = tx.init(params)
    for _ in range(2):
        params, state = step(grads, state, params)
    assert state.step == {"a": 2, "b": 0}
    assert_equal(params["b"], torch.ones(2))
