"""Classes that users derive from ours, as they derive them from torch's."""

import copy
import pickle

import pytest
import torch
from classes import assert_same_value

import optimfx.optim as optim

BOTH = pytest.mark.parametrize("kind", [torch.optim, optim], ids=["torch", "ours"])


def steps(optimizer, params, count):
    for step in range(count):
        for p in params:
            p.grad = torch.full_like(p, 1.0 + step)
        optimizer.step()


class OwnStep(optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["step"] = self.state[p].get("step", 0) + 1
                p.sub_(p.grad, alpha=group["lr"])


@pytest.mark.parametrize("how", ["load", "deepcopy", "pickle"])
def test_a_step_of_ones_own(how):
    """Without an algorithm; the state is of no known form."""
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = OwnStep([p])
    steps(optimizer, [p], 2)
    if how == "load":
        twin = OwnStep([p], lr=0.5)
        twin.load_state_dict(optimizer.state_dict())
    else:
        twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    (q,) = twin.param_groups[0]["params"]
    steps(twin, [q], 1)
    assert twin.param_groups[0]["lr"] == 0.1 and twin.state[q]["step"] == 3
    torch.testing.assert_close(q.detach(), torch.full((2,), 0.6))


@BOTH
def test_arguments_of_ones_own_are_no_hyperparameters(kind):
    """And those that are handed on are: an old checkpoint gets the flags that it lacks."""

    class More(kind.Adam):
        def __init__(self, params, lr=1e-3, verbose=True, sched=None, **kwargs):
            super().__init__(params, lr=lr, **kwargs)

    class Fewer(kind.Adam):
        def __init__(self, params, **kwargs):
            super().__init__(params, **kwargs)

    params = [torch.nn.Parameter(torch.ones(2))]
    for cls in (More, Fewer):
        optimizer = cls(params)
        steps(optimizer, params, 1)
        saved = copy.deepcopy(optimizer.state_dict())
        for flag in ("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"):
            del saved["param_groups"][0][flag]
        before = copy.deepcopy(optimizer.param_groups)
        optimizer.load_state_dict(saved)
        assert_same_value(before, optimizer.param_groups)
        steps(optimizer, params, 1)


def test_torchs_public_names_are_there():
    """Every name that torch's package lists, and every public method of its classes."""
    for theirs, ours in ((torch.optim, optim), (torch.optim.lr_scheduler, optim.lr_scheduler)):
        assert set(theirs.__all__) <= set(dir(ours))
        for name in [name for name in theirs.__all__ if isinstance(getattr(theirs, name), type)]:
            methods = [method for method in dir(getattr(theirs, name)) if not method.startswith("_")]
            assert set(methods) <= set(dir(getattr(ours, name)))
    assert issubclass(optim.lr_scheduler._LRScheduler, optim.lr_scheduler.LRScheduler)


def test_adagrads_sums_are_shared():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = optim.Adagrad(params)
    optimizer.share_memory()
    assert all(state["sum"].is_shared() for state in optimizer.state.values())
    steps(optimizer, params, 1)
    assert optimizer.state[params[1]]["sum"].is_shared() and optimizer.state[params[1]]["sum"][0] == 1


@pytest.mark.skipif(not hasattr(torch.optim, "swap_in_optimizer_params_and_state"), reason="since torch 2.13")
def test_other_parameters_are_swapped_in():
    """Stepped with the state that comes along, while the optimizer's own rest."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.AdamW([p], lr=0.1)
    steps(optimizer, [p], 2)
    other = torch.nn.Parameter(p.detach().clone())
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.5
    before = p.detach().clone()
    with optim.swap_in_optimizer_params_and_state(optimizer, {"p": other}, saved):
        steps(optimizer, [other], 1)
    assert torch.equal(p, before) and optimizer.state[p]["step"] == 2 and saved["state"][0]["step"] == 3
    optimizer.param_groups[0]["lr"] = 0.5
    steps(optimizer, [p], 1)
    assert torch.equal(p, other)
