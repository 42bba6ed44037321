"""Gradients that a GradScaler has scaled, in a fused step that unscales them and leaves out what overflowed."""

import copy
import inspect

import pytest
import torch
from classes import CLASSES, EVERY, assert_same_value

from optimfx.core import tracing
from optimfx.optim.adapter.amp import Scaling
from optimfx.optim.adapter.scalar_columns import ScalarColumn

SCALING = [CLASSES[info.optim_cls] for info in EVERY if "fused" in inspect.signature(info.optim_cls).parameters]
by_class = pytest.mark.parametrize("cls", SCALING, ids=lambda cls: cls.__name__)


@pytest.fixture(params=["the host", "a device"])
def known_to(request, monkeypatch):
    """An overflow is known to the host, or stays in a tensor, as do the counts."""
    if request.param == "a device":
        monkeypatch.setattr(tracing, "read_number", lambda x: x)
        monkeypatch.setattr(ScalarColumn, "vector", property(lambda scalars: scalars.packed))


def parameters():
    return [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (5,)]]


def give_gradients(params, scale):
    for p in params:
        p.grad = torch.randn_like(p) * scale


def step(optimizer, grad_scale, found_inf):
    optimizer.grad_scale, optimizer.found_inf = grad_scale, found_inf
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


@by_class
def test_only_a_fused_step_unscales(cls):
    assert cls(parameters(), fused=True)._step_supports_amp_scaling
    assert not cls(parameters())._step_supports_amp_scaling


@by_class
def test_scaled_gradients_are_unscaled_and_overflows_left_out(cls, known_to):
    """By 2^k, so that nothing is rounded: as the same steps on unscaled gradients, without those that overflowed."""
    params = parameters()
    twins = copy.deepcopy(params)
    fused, plain = cls(params, fused=True), cls(twins, fused=True)
    for overflowed in (False, True, False):
        give_gradients(params, 2.0**10)
        kept = copy.deepcopy((params, list(fused.state.values())))
        if overflowed:
            params[0].grad[0, 0] = torch.inf
        step(fused, torch.tensor(2.0**10), torch.tensor(float(overflowed)))
        if overflowed:
            assert_same_value((params, list(fused.state.values())), kept, rtol=0, atol=0)
            continue
        for p, q in zip(params, twins):
            q.grad = p.grad / 2.0**10
        plain.step()
    assert_same_value([p.detach() for p in params], [q.detach() for q in twins], rtol=1e-5, atol=1e-6)
    assert_same_value([*fused.state.values()], [*plain.state.values()], rtol=1e-5, atol=1e-6)


def test_gradients_that_were_unscaled_before_are_left_as_they_are():
    (cls,) = [cls for cls in SCALING if cls.__name__ == "AdamW"]
    params = parameters()
    give_gradients(params, 1.0)
    optimizer = cls(params, fused=True)
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(0.0)
    assert Scaling.from_optimizer(optimizer) == (None, 0.0)
    assert Scaling.from_optimizer(cls(params)) == (None, None)
