"""Steps and loads that the classes refuse: torch's errors beside ours."""

import copy
import itertools

import pytest
import torch
from classes import CLASSES, DB, EVERY, assert_same_value, by_class, give_gradients, richest, some_params, take_step

import optimfx as fx
import optimfx.optim as optim

BOTH = (torch.optim, optim)
STEPPED = [info for info in EVERY if not info.step_requires_closure]
COUNTED = [i for i in STEPPED if CLASSES[i.optim_cls].counts and not CLASSES[i.optim_cls].numeric_step]
# Which entries a state has does not depend on the shape of the parameter.
ELEMENTWISE = [i for i in STEPPED if CLASSES[i.optim_cls].factory().update.rule.elementwise]


def raised(call, *args):
    """The type and the text of the error, if there is one."""
    try:
        call(*args)
    except Exception as error:
        return type(error), str(error)
    return None


def trained(cls, info, **options):
    params = some_params(info, torch.float32)
    optimizer = cls(params, **copy.deepcopy(options))
    give_gradients(info, params)
    take_step(info, optimizer, params)
    return optimizer, params


@by_class(DB)
def test_the_checkpoint_of_another_algorithm(info):
    """Refused wherever torch has an error for it, by the load or by the next step, and nothing has changed then."""
    for other in DB:
        outcomes = []
        for cls, source in ((info.optim_cls, other.optim_cls), (CLASSES[info.optim_cls], CLASSES[other.optim_cls])):
            (p,) = params = [torch.nn.Parameter(torch.ones(4, 3))]
            saving, loading = source(params), cls(params)
            give_gradients(other, params)
            take_step(other, saving, params)
            before = p.detach().clone()

            def load_and_step(loading=loading, saving=saving, params=params):
                loading.load_state_dict(copy.deepcopy(saving.state_dict()))
                give_gradients(info, params)
                take_step(info, loading, params)

            outcomes.append(raised(load_and_step))
        assert (outcomes[0] is None) == (outcomes[1] is None), other
        if outcomes[1]:
            assert outcomes[1][0] is KeyError and torch.equal(p, before)


@by_class(ELEMENTWISE)
def test_a_state_that_lacks_an_entry(info):
    """The KeyError that torch raises; what torch begins again, begins again."""
    for options in ({}, richest(info)):
        for key in trained(info.optim_cls, info, **options)[0].state_dict()["state"].get(0, {}):
            outcomes = []
            for cls in (info.optim_cls, CLASSES[info.optim_cls]):
                optimizer, params = trained(cls, info, **options)
                before = params[0].detach().clone()
                del optimizer.state[params[0]][key]
                give_gradients(info, params)
                outcomes.append(raised(optimizer.step))
                assert outcomes[-1] is None or torch.equal(params[0], before)
            assert outcomes[1] == outcomes[0]
            assert info in DB or len(optimizer.state[params[0]]) == 1 or outcomes[1] == (KeyError, repr(key))


@by_class(DB)
def test_a_group_that_lacks_a_hyperparameter(info):
    """Loading raises torch's KeyError, unless it is a flag that is off, or needed only to begin the state."""
    saved = trained(CLASSES[info.optim_cls], info)[0].state_dict()
    begins = {torch.optim.Rprop: "lr"}.get(info.optim_cls)
    for key in saved["param_groups"][0].keys() - {"params", begins, *CLASSES[info.optim_cls].old_checkpoint_defaults}:
        lacking = copy.deepcopy(saved)
        del lacking["param_groups"][0][key]
        outcomes = []
        for cls in (info.optim_cls, CLASSES[info.optim_cls]):
            params = some_params(info, torch.float32)
            optimizer = cls(params)
            optimizer.load_state_dict(copy.deepcopy(lacking))
            give_gradients(info, params)
            outcomes.append(raised(take_step, info, optimizer, params))
        assert outcomes[1] == outcomes[0], key


@by_class(COUNTED)
def test_a_scalar_of_the_state_that_is_a_number(info):
    """Put there by hand; refused before anything has changed, in torch's words."""
    names = trained(CLASSES[info.optim_cls], info)[0].state_dict()["state"][0].keys() & {"step", "mu_product"}
    for name in names:
        outcomes = []
        for cls in (info.optim_cls, CLASSES[info.optim_cls]):
            optimizer, params = trained(cls, info)
            optimizer.state[params[0]][name] = 1
            before = copy.deepcopy((params, optimizer.state_dict()["state"]))
            give_gradients(info, params)
            outcomes.append(raised(optimizer.step))
        theirs, (kind, text) = outcomes
        assert kind is RuntimeError and text.startswith("API has changed, ")
        # Torch's ASGD goes on counting nothing, and of Adafactor the text is shorter.
        assert theirs is None if info.optim_cls is torch.optim.ASGD else text.endswith(theirs[1])
        assert_same_value([p.detach() for p in before[0]], [p.detach() for p in params], rtol=0, atol=0)
        assert_same_value(before[1], optimizer.state_dict()["state"], rtol=0, atol=0)


def test_lbfgs_has_one_group_and_one_line_search():
    outcomes = []
    for kind in BOTH:
        p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

        def closure(p=p):
            p.grad = 2 * p.detach()
            return p.detach().square().sum()

        two_groups, bogus = kind.LBFGS([p]), kind.LBFGS([p], line_search_fn="bogus")
        two_groups.add_param_group({"params": [q]})
        outcomes.append([raised(optimizer.step, closure) for optimizer in (two_groups, bogus)])
        still = kind.LBFGS([p], max_iter=0)
        assert [float(still.step(closure)) for _ in range(2)] == [2.0, 2.0]
        assert (still.state[p]["func_evals"], still.state[p]["n_iter"]) == (2, 0)
    assert outcomes[1] == outcomes[0] and None not in outcomes[1]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)], ids=str)
def test_muon_steps_matrices_alone(shape):
    """In a group that is added later, too."""
    outcomes = []
    for kind in BOTH:
        w, q = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(shape))
        optimizer = kind.Muon([w])
        optimizer.add_param_group({"params": [q]})
        q.grad = torch.ones_like(q)
        outcomes.append(raised(optimizer.step))
        assert torch.equal(q, torch.ones_like(q))
    assert outcomes[1] == outcomes[0] == (ValueError, "Param gradient must be a 2D matrix")


def test_messages_show_the_values_of_a_group():
    p = torch.nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    for cls, options, shown in (
        (optim.Muon, {"ns_coefficients": (3.0, 4.0)}, r"ns_coefficients .*; got \(3\.0, 4\.0\)"),
        (optim.Adafactor, {"eps": (None, 1e-3, 7.0)}, r"eps .*; got \(None, 0\.001, 7\.0\)"),
    ):
        with pytest.raises(TypeError, match=shown):
            cls([p], **options).step()


@by_class()
def test_a_schedule_is_for_the_pure_algorithm(info):
    with pytest.raises(TypeError, match=r"^lr must be a number or a tensor; got the schedule .*TransformOptimizer\.$"):
        CLASSES[info.optim_cls](some_params(info), lr=fx.schedules.linear(0.1))


def test_transform_optimizer_refuses_what_is_no_transformation():
    params = [torch.nn.Parameter(torch.ones(2))]
    for args, advice in (
        (
            (params, fx.adam),
            r"^tx must be .*got <function adam .* Call it first, as in adam\(\.\.\.\)\.$",
        ),
        ((fx.adam(), params), r"^tx must be .*got \["),
    ):
        with pytest.raises(TypeError, match=advice):
            optim.TransformOptimizer(*args)


def test_a_group_cannot_change_what_is_not_injected():
    """A name that no part of the transformation has is refused, and the optimizer is left as it was."""
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    inner = fx.partition({True: fx.adamw(lr=0.1), False: fx.set_to_zero()}, lambda params: [True] * len(params))
    for tx, part, name in itertools.product((fx.adamw(lr=0.1), inner), ("adamw",), ("lr", "betas", "maximize")):
        optimizer = optim.TransformOptimizer([p], tx)
        with pytest.raises(
            ValueError, match=rf"a group sets '{name}', but {part} does not inject.*inject_hyperparams\({part}"
        ):
            optimizer.add_param_group({"params": [q], name: 0.5})
        assert len(optimizer.param_groups) == 1
    both = fx.chain(fx.add_decayed_weights(0.1), fx.inject_hyperparams(fx.adamw)(lr=0.1))
    optimizer = optim.TransformOptimizer([{"params": [p], "lr": 0.5, "weight_decay": 0.2, "kind": "mine"}], both)
    assert optimizer.param_groups[0]["lr"] == 0.5 and optimizer.param_groups[0]["kind"] == "mine"
