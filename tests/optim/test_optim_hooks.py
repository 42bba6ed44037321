"""Hooks, and the name under which a profiler shows a step: torch's registries around our steps."""

import warnings

import pytest
import torch
from classes import CLASSES, EVERY, give_gradients, parameters, take_step
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import OptimizerInfo

import optimfx as fx
import optimfx.optim as optim

TRANSFORM = OptimizerInfo(optim.TransformOptimizer, optim_inputs_func=None)
MAKERS = {**CLASSES, optim.TransformOptimizer: lambda p: optim.TransformOptimizer(p, fx.inject_hyperparams(fx.adam)())}
every = pytest.mark.parametrize("info", [*EVERY, TRANSFORM], ids=lambda info: info.optim_cls.__name__)


def made(info, cls=None):
    """An optimizer with gradients to step on, and its parameters."""
    params = parameters(info)[:1]
    give_gradients(info, params)
    return (cls or MAKERS[info.optim_cls])(params), params


@every
def test_step_hooks_in_order(info):
    """Global ones too, on an optimizer that was there before them; and no more once their handles are removed."""
    optimizer, params = made(info)
    seen = []
    handles = [
        register_optimizer_step_post_hook(lambda *args: seen.append("global post")),
        optimizer.register_step_post_hook(lambda *args: seen.append("post")),
        optimizer.register_step_pre_hook(lambda *args: seen.append("pre")),
        register_optimizer_step_pre_hook(lambda *args: seen.append("global pre")),
    ]
    take_step(info, optimizer, params)
    assert seen == ["global pre", "pre", "post", "global post"]
    for handle in handles:
        handle.remove()
    give_gradients(info, params)
    take_step(info, optimizer, params)
    assert len(seen) == 4


@every
def test_a_pre_hook_may_replace_the_arguments(info):
    """Here by a closure; anything else than a pair of them, or nothing, is refused."""
    optimizer, _ = made(info)
    handle = optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer, lambda: 5.0), {}))
    assert optimizer.step() == 5.0
    handle.remove()
    optimizer.register_step_pre_hook(lambda *args: 5)
    with pytest.raises(RuntimeError, match=r"must return None or a tuple of \(new_args, new_kwargs\), but got 5"):
        optimizer.step(lambda: 5.0)


@pytest.mark.parametrize("info", EVERY, ids=lambda info: info.optim_cls.__name__)
@pytest.mark.parametrize("overrides", [False, True])
def test_hooks_of_a_subclass_fire_as_often_as_torchs(info, overrides):
    """Once for a step that is inherited, whose class has been wrapped before."""

    def fired(cls):
        made(info, cls)  # wraps the step of the class

        class Mine(cls):
            if overrides:

                def step(self, closure=None):
                    return super().step(closure)

        optimizer, params = made(info, Mine)
        seen = []
        optimizer.register_step_post_hook(lambda *args: seen.append(1))
        take_step(info, optimizer, params)
        return len(seen)

    assert fired(CLASSES[info.optim_cls]) == fired(info.optim_cls)
    assert overrides or fired(CLASSES[info.optim_cls]) == 1


@every
def test_profiler_names(info):
    optimizer, params = made(info)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler itself
        with torch.profiler.profile() as profile:
            take_step(info, optimizer, params)
            optimizer.zero_grad()
    names, cls = {event.name for event in profile.events()}, info.optim_cls.__name__
    assert {f"Optimizer.step#{cls}.step", f"Optimizer.zero_grad#{cls}.zero_grad"} <= names


@every
def test_state_takes_other_keys(info):
    """As a hook before ``state_dict`` writes them: they are saved, loaded, and not in the way of a step."""
    optimizer, params = made(info)
    optimizer.register_state_dict_pre_hook(lambda optimizer: optimizer.state.update(test=1))
    assert optimizer.state_dict()["state"]["test"] == 1
    take_step(info, optimizer, params)
    other, _ = made(info)
    other.load_state_dict(optimizer.state_dict())
    assert other.state["test"] == 1
    take_step(info, other, other.param_groups[0]["params"])


@every
def test_state_dict_hooks(info):
    """Before: in order, or first. After: each may change the dict, or return another for the next."""
    optimizer, _ = made(info)
    seen = []
    optimizer.register_state_dict_pre_hook(lambda optimizer: seen.append("second"))
    optimizer.register_state_dict_pre_hook(lambda optimizer: seen.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda optimizer, state_dict: {"new": state_dict["changed"]})
    optimizer.register_state_dict_post_hook(
        lambda optimizer, state_dict: state_dict.update(changed=len(seen)), prepend=True
    )
    assert optimizer.state_dict() == {"new": 2}
    assert seen == ["first", "second"]


@every
def test_load_state_dict_hooks(info):
    """Before: on a shallow copy, which they may change or replace. After: they see what was loaded."""
    optimizer, _ = made(info)
    saved = {**optimizer.state_dict(), "more": 1}
    seen = []

    def replaced(optimizer, state_dict):
        seen.append("more" in state_dict)
        return {**state_dict, "param_groups": [{**group, "lr": 0.25} for group in state_dict["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(replaced)
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, state_dict: seen.append(state_dict["param_groups"]))
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, state_dict: state_dict.__delitem__("more"), True)
    optimizer.register_load_state_dict_post_hook(lambda optimizer: seen.append("second"))
    optimizer.register_load_state_dict_post_hook(lambda optimizer: seen.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda optimizer: seen.append(optimizer.param_groups[0]["lr"]))
    optimizer.load_state_dict(saved)
    assert seen[0] is False and seen[1][0]["lr"] == 0.25 and seen[2:] == ["first", "second", 0.25]
    assert saved["more"] == 1 and saved["param_groups"][0]["lr"] != 0.25
