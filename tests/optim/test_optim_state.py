"""The state of the classes: checkpoints both ways, copies, and that it is the truth."""

import copy
import io
import pickle

import pytest
import torch
from classes import (
    CLASSES,
    DB,
    EVERY,
    assert_same_value,
    by_class,
    closeness,
    give_gradients,
    numbers,
    pair,
    richest,
    some_params,
    take_step,
)
from optim_runs import run

import optimfx.optim as optim

CLOSE = dict(rtol=1e-6, atol=1e-6)


def through_a_file(state_dict):
    """As torch.save and the safe torch.load bring it back: plain containers, numbers and tensors only."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


WAYS = [(info, way) for info in DB for way in ("torch to ours", "ours to torch")]
WAYS += [(info, "ours to ours") for info in EVERY]


@pytest.mark.parametrize("info, way", [pytest.param(i, way, id=f"{i.optim_cls.__name__}-{way}") for i, way in WAYS])
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


@by_class()
def test_an_old_checkpoint_without_newer_keys(info):
    """No flags that are off in the groups, and steps that are numbers: the next step is the same."""
    params = some_params(info)
    optimizer = CLASSES[info.optim_cls](params)
    run(info, optimizer, params, 2)
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for key in [key for key, value in group.items() if value is None or value is False]:
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


@by_class()
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


def test_edits_of_groups_and_state_are_used():
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


@by_class()
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
            assert (p in theirs.state) == (q in ours.state)
            assert_same_value(numbers(theirs.state.get(p, {})), numbers(ours.state.get(q, {})), **CLOSE)


class Fault(Exception):  # noqa: N818
    pass


@by_class()
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


def keys(optimizer, params):
    return [set(optimizer.state.get(p, {})) for p in params]


@by_class()
def test_state_begins_with_the_first_step(info):
    """Under torch's keys, for the parameters that were stepped; of Adagrad and its like with the constructor."""
    (their_params, theirs), (our_params, ours) = pair(info, some_params(info), **richest(info))
    assert len(ours.state) == len(theirs.state) and keys(ours, our_params) == keys(theirs, their_params)
    for params, optimizer in ((their_params, theirs), (our_params, ours)):
        give_gradients(info, params[:1])
        for p in params[1:] if info.step_requires_closure else ():
            p.grad = torch.zeros_like(p)
        take_step(info, optimizer, params)
    assert len(ours.state) == len(theirs.state) and keys(ours, our_params) == keys(theirs, their_params)
    assert ours.state[our_params[0]]


@pytest.mark.parametrize("max_iter", [1, 2])
def test_lbfgs_keeps_torchs_keys(max_iter):
    """One iteration needs less than two."""
    (info,) = [info for info in DB if info.step_requires_closure]
    (their_params, theirs), (our_params, ours) = pair(info, some_params(info), max_iter=max_iter, lr=0.1)
    run(info, theirs, their_params, 1)
    run(info, ours, our_params, 1)
    assert keys(ours, our_params) == keys(theirs, their_params)


@by_class()
def test_a_state_that_is_put_there_is_used(info):
    """Before the first step: torch's own state, tensor by tensor."""
    options = richest(info)
    (params, optimizer), (copies, ours) = pair(info, some_params(info, torch.float32), **options)
    run(info, optimizer, params, 3)
    for p, q in zip(params, copies):
        q.data.copy_(p)
        ours.state[q].update(copy.deepcopy(optimizer.state.get(p, {})))
    run(info, optimizer, params, 2, seed=1)
    run(info, ours, copies, 2, seed=1)
    assert_same_value([p.detach() for p in params], [q.detach() for q in copies], **CLOSE)


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16], ids=str)
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@by_class(DB)
def test_counts_have_the_default_dtype(info, default_dtype):
    """But none narrower than float32, and whatever the parameters have; with every other dtype of the state."""
    (their_params, theirs), (our_params, ours) = pair(info, some_params(info, torch.float32), **richest(info))
    run(info, theirs, their_params, 1)
    run(info, ours, our_params, 1)
    for p, q in zip(their_params, our_params):
        kinds = [
            {key: (value.dtype, value.shape, value.device) for key, value in state.items() if torch.is_tensor(value)}
            for state in (theirs.state.get(p, {}), ours.state.get(q, {}))
        ]
        assert kinds[1] == kinds[0]


@by_class([info for info in EVERY if not info.step_requires_closure])
@pytest.mark.parametrize("foreach", [None, False])
def test_steps_do_not_depend_on_the_default_dtype(info, foreach, default_dtype):
    """FromFactory 256 of them, too, after which bfloat16 has no number for the next one."""
    options = {} if foreach is None or "foreach" not in info.supported_impls else {"foreach": foreach}
    runs = []
    for dtype in (torch.float32, default_dtype):
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        params = some_params(info, torch.float32)
        optimizer = CLASSES[info.optim_cls](params, **options)
        run(info, optimizer, params, 1)
        for state in optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"].fill_(255)
        torch.set_default_dtype(dtype)
        run(info, optimizer, params, 4)
        runs.append([[p.detach() for p in params], [optimizer.state.get(p, {}) for p in params]])
    assert_same_value(*runs, rtol=0, atol=0)
    assert all(not torch.is_tensor(state.get("step")) or state["step"] == 259 for state in runs[1][1])


def test_torchs_kernel_is_told_the_step(default_dtype):
    """The number of it, to the digit."""
    p, q = (torch.nn.Parameter(torch.ones(2**16, dtype=torch.float32)) for _ in range(2))
    optimizers = [optim.Adam([p]), torch.optim.Adam([q], fused=True)]
    for optimizer, x in zip(optimizers, (p, q)):
        for _ in range(2):
            x.grad = torch.linspace(-1, 1, 2**16, dtype=torch.float32)
            optimizer.step()
            optimizer.state[x]["step"].fill_(256)
    assert torch.equal(p, q)


@by_class([info for info in EVERY if not info.step_requires_closure])
def test_steps_do_not_depend_on_the_default_device(info):
    """Where torch takes a step under ``with torch.device(...)``; a first one and a load, too."""
    runs = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        params = some_params(info, torch.float32)
        grads = [torch.randn_like(p) for p in params]
        for p, grad in zip(params, grads):
            p.grad = grad.to_sparse() if info.only_supports_sparse_grads else grad
        with torch.device(device):
            saving = CLASSES[info.optim_cls](params)
            saving.step()
            optimizer = CLASSES[info.optim_cls](params)
            optimizer.load_state_dict(saving.state_dict())
            optimizer.step()
        runs.append([[p.detach() for p in params], [optimizer.state.get(p, {}) for p in params]])
    assert_same_value(*runs, rtol=0, atol=0)


@by_class()
def test_parameters_are_packed_by_their_first_places(info):
    """Counted over all groups, however often a parameter is there."""
    params = some_params(info) + some_params(info)
    groups = [{"params": params[:1]}, {"params": params[1:]}] if info.supports_param_groups else params
    theirs, ours = info.optim_cls(groups), CLASSES[info.optim_cls](groups)
    for optimizer in (theirs, ours):
        optimizer.param_groups.extend(optimizer.param_groups)
    places = [[group["params"] for group in optimizer.state_dict()["param_groups"]] for optimizer in (theirs, ours)]
    assert places[1] == places[0] and places[1][-1][-1] == len(params) - 1


@by_class()
def test_each_key_that_a_checkpoint_lacks_gets_torchs_value(info):
    """State that torch brings up to date is, and the next step succeeds."""
    params = some_params(info)
    ours = CLASSES[info.optim_cls](params, **richest(info))
    run(info, ours, params, 1)
    for key in set(ours.param_groups[0]) - {"params"}:
        old = copy.deepcopy(ours.state_dict())
        del old["param_groups"][0][key]
        loaded = [cls([torch.nn.Parameter(p.detach().clone()) for p in params]) for cls in (info.optim_cls, type(ours))]
        for optimizer in loaded:
            optimizer.load_state_dict(copy.deepcopy(old))
        their_group, our_group = (optimizer.param_groups[0] for optimizer in loaded)
        if key in their_group:
            # A flag that is off: None to one, False to the other.
            assert our_group[key] == their_group[key] or not (our_group[key] or their_group[key]), key
            run(info, loaded[1], our_group["params"], 1)


@by_class()
def test_loading_copies_and_casts_as_torch_does(info):
    """Tensors in containers too; and the checkpoint is not changed."""
    single = [torch.nn.Parameter(p.detach().float()) for p in some_params(info)]
    saving = info.optim_cls(single, **richest(info))
    run(info, saving, single, 2)
    saved = copy.deepcopy(saving.state_dict())
    more = {"deep": {"x": torch.ones(2)}, "list": [torch.ones(2), 3], "tuple": (torch.ones(2),), "number": 3}
    saved["state"].setdefault(0, {}).update(more)
    before = copy.deepcopy(saved)
    states = []
    for cls in (info.optim_cls, CLASSES[info.optim_cls]):
        params = [torch.nn.Parameter(p.detach().bfloat16()) for p in single]
        optimizer = cls(params, **richest(info))
        optimizer.load_state_dict(saved)
        assert_same_value(before, saved, rtol=0, atol=0)
        states.append([optimizer.state.get(p, {}) for p in params])
    assert_same_value(*states, rtol=0, atol=0)
    assert states[1][0]["deep"]["x"].dtype == states[1][0]["tuple"][0].dtype == torch.bfloat16
    assert states[1][0]["deep"] is not saved["state"][0]["deep"]
    run(info, optimizer, params, 1)


@by_class([info for info in EVERY if info.has_capturable_arg])
def test_loading_moves_counts_that_are_captured(info):
    """A count of another dtype stays as it is, unless ``capturable`` asks for torch's on the device."""
    params = some_params(info)
    saving = CLASSES[info.optim_cls](params)
    run(info, saving, params, 1)
    for capturable in (False, True):
        saved = saving.state_dict()
        saved["param_groups"][0]["capturable"] = capturable
        saved["state"] = {i: {**kept, "step": kept["step"].double()} for i, kept in saved["state"].items()}
        loaded = [cls(params) for cls in (info.optim_cls, type(saving))]
        for optimizer in loaded:
            optimizer.load_state_dict(saved)
        counts = [[optimizer.state[p]["step"] for p in params] for optimizer in loaded]
        assert_same_value(*counts)
        assert counts[1][0].dtype == (torch.float32 if capturable else torch.float64)


@by_class()
def test_other_groups_are_refused(info):
    optimizer = CLASSES[info.optim_cls](some_params(info))
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"^loaded state dict has a different number of parameter groups$"):
        optimizer.load_state_dict({**saved, "param_groups": saved["param_groups"] * 2})
    group = {**saved["param_groups"][0], "params": [0, 1, 2, 3, 4]}
    text = r"^loaded state dict contains a parameter group that doesn't match the size of optimizer's group$"
    with pytest.raises(ValueError, match=text):
        optimizer.load_state_dict({**saved, "param_groups": [group]})


@by_class()
def test_names_survive_a_load(info):
    """From a checkpoint without names and into an optimizer without; the hyperparameters are the checkpoint's."""
    p = torch.nn.Parameter(torch.ones(2, 3))
    named, unnamed = (CLASSES[info.optim_cls](params) for params in ([("weight", p)], [p]))
    saved = CLASSES[info.optim_cls]([p], lr=0.5).state_dict()
    named.load_state_dict(saved)
    assert named.param_groups[0]["param_names"] == ["weight"] and named.param_groups[0]["lr"] == 0.5
    unnamed.load_state_dict(named.state_dict())
    assert unnamed.param_groups[0]["param_names"] == ["weight"] and unnamed.param_groups[0]["lr"] == 0.5
    other = CLASSES[info.optim_cls]([("bias", p)])
    other.load_state_dict(named.state_dict())
    assert other.param_groups[0]["param_names"] == ["weight"]


@by_class()
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_keep_state_and_groups(info, how):
    """All public attributes and, as torch's copies, none of the hooks, in registries of their own."""
    params = some_params(info)
    optimizer = CLASSES[info.optim_cls](params)
    run(info, optimizer, params, 1)
    for kind in ("step_pre", "step_post", "state_dict_pre", "state_dict_post"):
        getattr(optimizer, f"register_{kind}_hook")(len)
        getattr(optimizer, f"register_load_{kind}_hook", lambda hook: None)(len)
    twin = how(optimizer)
    assert {"defaults", "state", "param_groups"} <= optimizer.__getstate__().keys() <= set(vars(twin))
    assert {name for name in vars(optimizer) if name[0] != "_"} == {name for name in vars(twin) if name[0] != "_"}
    assert twin.defaults == {"differentiable": False, **optimizer.defaults} and repr(twin) == repr(optimizer)
    registries = [name for name in vars(optimizer) if name.endswith("_hooks")]
    assert len(registries) == 6 and not any(getattr(twin, name) for name in registries)
    assert all(getattr(optimizer, name) for name in registries)


@by_class()
def test_edits_of_groups_are_used_by_every_class(info):
    """Between any two steps: other tensors in the state, other values in place, another learning rate."""
    (their_params, theirs), (our_params, ours) = pair(info, some_params(info, torch.float32), **richest(info))
    for step in range(4):
        torch.manual_seed(step)
        give_gradients(info, their_params, our_params)
        for params, optimizer in ((their_params, theirs), (our_params, ours)):
            take_step(info, optimizer, params)
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            for p in params:
                for name, value in optimizer.state.get(p, {}).items():
                    if torch.is_tensor(value) and value.dim() and step % 2:
                        value.mul_(0.5)
                    elif torch.is_tensor(value) and value.dim():
                        optimizer.state[p][name] = value * 2
    close = CLOSE if info in DB else closeness(info, {})
    assert_same_value([p.detach() for p in their_params], [p.detach() for p in our_params], **close)
