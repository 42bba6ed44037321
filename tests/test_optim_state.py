"""The state of the classes: checkpoints both ways, copies, hooks, and that it is the truth."""

import copy
import io
import pickle

import pytest
import torch
from test_optim_classes import CLASSES, DB, assert_same_value, give_gradients, numbers, pair, parameters, take_step

import optimfx.optim as optim

CLOSE = dict(rtol=1e-6, atol=1e-6)
by_class = pytest.mark.parametrize("info", DB, ids=lambda info: info.optim_cls.__name__)


def some_params(info, dtype=torch.float64):
    return parameters(info, dtype)[:1] if info.only_supports_sparse_grads else parameters(info, dtype)


def run(info, optimizer, params, steps, seed=0):
    torch.manual_seed(seed)
    for _ in range(steps):
        give_gradients(info, params)
        take_step(info, optimizer, params)


def through_a_file(state_dict):
    """As torch.save and the safe torch.load bring it back: plain containers, numbers and tensors only."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def richest(info):
    cases = [case.kwargs for case in info.optim_inputs_func(device="cpu") if "capturable" not in case.kwargs]
    return max(cases, key=len)


@by_class
@pytest.mark.parametrize("way", ["torch to ours", "ours to torch", "ours to ours"])
def test_a_checkpoint_moves_mid_run(info, way):
    """Five more steps equal those of the run that did not move."""
    kinds = {"torch": info.optim_cls, "ours": CLASSES[info.optim_cls]}
    first, second = (kinds[name] for name in way.split(" to "))
    options = richest(info)
    params = some_params(info, torch.float32)  # in which torch keeps carried scalars, and loads them again
    optimizer = first(params, **copy.deepcopy(options))
    run(info, optimizer, params, 5)
    moved_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    moved = second(moved_params, **copy.deepcopy(options))
    moved.load_state_dict(through_a_file(optimizer.state_dict()))
    run(info, optimizer, params, 5, seed=1)
    run(info, moved, moved_params, 5, seed=1)
    across = dict(rtol=1e-4, atol=1e-4) if info.step_requires_closure else CLOSE  # L-BFGS: its scalars are doubles here
    close = dict(rtol=0, atol=0) if first is second else across
    assert_same_value([p.detach() for p in params], [p.detach() for p in moved_params], **close)
    assert optimizer.state_dict()["param_groups"] == moved.state_dict()["param_groups"]
    if first is second:
        assert_same_value(optimizer.state_dict()["state"], moved.state_dict()["state"], **close)
    else:
        assert_same_value(numbers(optimizer.state_dict()["state"]), numbers(moved.state_dict()["state"]), **close)


@by_class
def test_an_old_checkpoint_without_newer_keys(info):
    """Only lr and params in the groups, and steps that are numbers: the next step is the same."""
    params = some_params(info)
    optimizer = CLASSES[info.optim_cls](params)
    run(info, optimizer, params, 2)
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for key in set(group) & {"foreach", "maximize", "capturable", "differentiable", "fused", "amsgrad", "nesterov"}:
            del group[key]
    for state in old["state"].values():
        for key in set(state) & {"step", "eta", "mu", "mu_product"}:
            state[key] = float(state[key])
    moved_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    moved = CLASSES[info.optim_cls](moved_params)
    moved.load_state_dict(old)
    run(info, optimizer, params, 1, seed=1)
    run(info, moved, moved_params, 1, seed=1)
    assert_same_value([p.detach() for p in params], [p.detach() for p in moved_params], rtol=0, atol=0)


@by_class
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_step_alike(info, how):
    params = some_params(info)
    optimizer = CLASSES[info.optim_cls](params)
    run(info, optimizer, params, 2)
    twin, twin_params = how((optimizer, params))
    assert twin.param_groups[0]["params"][0] is twin_params[0]
    run(info, optimizer, params, 2, seed=1)
    run(info, twin, twin_params, 2, seed=1)
    assert_same_value([p.detach() for p in params], [p.detach() for p in twin_params], rtol=0, atol=0)
    handle = twin.register_step_pre_hook(lambda *args: None)
    handle.remove()


def test_what_the_user_writes_is_used():
    """In the state, in a group, and in a flag of a group, at any time."""
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = optim.Adam([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)
    optimizer.param_groups[0].update(lr=0.5, maximize=True)
    optimizer.state[p] = {key: torch.zeros_like(value) for key, value in optimizer.state[p].items()}
    optimizer.step()
    torch.testing.assert_close(p.detach(), before + 0.5, rtol=1e-6, atol=0)
    assert optimizer.state[p]["step"] == 1


def test_a_term_that_is_switched_on_later_begins_then():
    """Momentum as torch begins it, with the gradient itself; amsgrad, on which torch raises a KeyError."""
    p, q = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    theirs, ours = torch.optim.SGD([p], lr=0.1, dampening=0.5), optim.SGD([q], lr=0.1, dampening=0.5)
    for momentum in (0.0, 0.9, 0.9):
        for x, optimizer in ((p, theirs), (q, ours)):
            x.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
            optimizer.param_groups[0]["momentum"] = momentum
            optimizer.step()
        assert torch.equal(p, q)
    adam = optim.Adam([q], lr=0.1)
    adam.step()
    adam.param_groups[0]["amsgrad"] = True
    adam.step()
    assert torch.equal(adam.state[q]["max_exp_avg_sq"], adam.state[q]["exp_avg_sq"])
    assert adam.state[q]["step"] == 2


@by_class
def test_frozen_parameters_keep_their_own_count(info):
    """No gradient: no step, no state. Torch's trajectory when they come and go."""
    if info.step_requires_closure or info.only_supports_sparse_grads:
        options = {}
    else:
        options = {"foreach": False} if "foreach" in info.supported_impls else {}
    params = some_params(info)
    (their_params, theirs), (our_params, ours) = pair(info, params, **options)
    for absent in ([0], [], [0, 1], [1], []):
        give_gradients(info, their_params, our_params)
        for i in absent:
            if i < len(params) and len(params) > 1 and not info.step_requires_closure:
                their_params[i].grad = our_params[i].grad = None
        take_step(info, theirs, their_params)
        take_step(info, ours, our_params)
        assert_same_value([p.detach() for p in their_params], [p.detach() for p in our_params], **CLOSE)
        for p, q in zip(their_params, our_params):
            assert_same_value(numbers(theirs.state.get(p, {})), numbers(ours.state.get(q, {})), **CLOSE)


def test_hooks_in_order():
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    p = torch.nn.Parameter(torch.ones(1))
    seen = []
    optimizer = optim.AdamW([p])
    handles = [
        register_optimizer_step_pre_hook(lambda *args: seen.append("global pre")),
        register_optimizer_step_post_hook(lambda *args: seen.append("global post")),
        optimizer.register_step_pre_hook(lambda *args: seen.append("pre")),
        optimizer.register_step_post_hook(lambda *args: seen.append("post")),
    ]
    p.grad = torch.ones(1)
    optimizer.step()
    assert seen == ["global pre", "pre", "post", "global post"]
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 4


def test_state_takes_other_keys():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([p])
    optimizer.register_state_dict_pre_hook(lambda optimizer: optimizer.state.update(test=1))
    assert optimizer.state_dict()["state"]["test"] == 1


class Fault(Exception):  # noqa: N818
    pass


@by_class
@pytest.mark.parametrize("where", ["closure", "hook"])
def test_a_step_that_raises_changes_nothing(info, where):
    params = some_params(info)
    optimizer = CLASSES[info.optim_cls](params)
    run(info, optimizer, params, 2)
    before = copy.deepcopy((params, optimizer.state_dict()))
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) == 2 or not info.step_requires_closure or where == "hook":
            raise Fault
        return sum((p**2).sum() for p in params)  # of L-BFGS, the second evaluation fails

    if where == "hook":
        optimizer.register_step_pre_hook(fail)
    give_gradients(info, params)
    with pytest.raises(Fault):
        optimizer.step(fail)
    assert_same_value([p.detach() for p in before[0]], [p.detach() for p in params], rtol=0, atol=0)
    assert_same_value(before[1], optimizer.state_dict(), rtol=0, atol=0)
