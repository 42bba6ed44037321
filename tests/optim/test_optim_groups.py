"""Many groups of few parameters: with numbers of their own, but stepped together."""

import pytest
import torch
from classes import CLASSES, EVERY, OF_MATRICES, by_class

import optimfx.optim as optim
from optimfx.execution.plan.passes import Pass
from optimfx.optim.adapter.group_step import FEW, is_joinable

GROUPS = FEW + 4
SHAPES = [(4, 3), (3,), (), (130, 127), (2, 1, 2)]
"""One of them larger than what is run together with others."""
ELEMENTWISE = [
    info
    for info in EVERY
    if not info.only_supports_sparse_grads and info.optim_cls.__name__ not in ("LBFGS", *OF_MATRICES)
]


def in_groups(cls, dtype, **flags):
    """An optimizer with a rate for each parameter, two of which are equal."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(SHAPES[i % len(SHAPES)], dtype=dtype)) for i in range(GROUPS)]
    groups = [{"params": [p], "lr": 0.01 * max(i, 1)} for i, p in enumerate(params)]
    return params, cls(groups, lr=0.01, **flags)


def step(params, optimizer, times):
    for _ in range(times):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()


def joins(optimizer):
    return is_joinable(optimizer._updates[0].update.rule)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@by_class(ELEMENTWISE)
def test_groups_that_are_stepped_together_step_as_by_themselves(info, dtype, monkeypatch):
    cls = CLASSES[info.optim_cls]
    together, one = in_groups(cls, dtype)
    apart, other = in_groups(cls, dtype, foreach=False)
    calls = []
    monkeypatch.setattr(Pass, "run_each", lambda *args, run=Pass.run_each: calls.append(args) or run(*args))
    for params, optimizer in ((together, one), (apart, other)):
        torch.manual_seed(1)
        step(params, optimizer, 4)
    assert len(calls) == (4 if joins(one) else 8)
    # A product more for a rate that is a tensor, of four steps: a few roundings.
    eps = torch.finfo(dtype).eps
    for p, q in zip(together, apart):
        torch.testing.assert_close(p, q, rtol=16 * eps, atol=16 * eps)


def test_a_rate_that_is_written_between_steps_counts():
    params, optimizer = in_groups(optim.SGD, torch.float64)
    step(params, optimizer, 1)
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups[1:]:
        group["lr"] = 0.0
    step(params, optimizer, 1)
    moved = [not torch.equal(p, q) for p, q in zip(params, before)]
    assert moved == [True] + [False] * (GROUPS - 1)
