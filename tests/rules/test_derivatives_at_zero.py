"""Derivatives through training, where an element never has a gradient and its second moment is 0."""

import pytest
import torch
from catalogue import ALGORITHMS, cases

import optimfx as fx

X = torch.tensor([[1.0, 0.0], [-0.5, 0.0]], dtype=torch.float64)
STEPS = 3


def loss(w):
    return ((X @ w).sum(-1) - 1).pow(2).sum()


def trained(tx, link):
    """The loss after training, as a function of a factor of the parameters at the start."""
    tx = fx.chain(link, tx) if link else tx

    def of(factor):
        w = factor * torch.tensor([[0.2, 0.4], [0.3, -0.1]], dtype=torch.float64)
        state = tx.init(w)
        for _ in range(STEPS):
            w, state = fx.step(tx, torch.func.grad(loss)(w), state, w)
        return loss(w) + w.sum()

    return of


def differentiable(row, options):
    """Not a search, whose length jumps, nor a step of a sign; and without ``eps`` a step itself divides 0 by 0."""
    if "grad through the update" in row.reasons:
        return False
    return row.rule is not None and row.name not in ("rprop", "signsgd", "lion") and options.get("eps") != 0


@cases(ALGORITHMS, where=differentiable)
@pytest.mark.parametrize("link", [None, fx.clip_by_global_norm(0.5)], ids=["alone", "clipped"])
def test_derivatives_at_zero_equal_differences(row, options, link):
    of, at, h = trained(row(**options), link), torch.tensor(1.0, dtype=torch.float64), 1e-6
    reverse = torch.func.grad(of)(at)
    _, forward = torch.func.jvp(of, (at,), (torch.ones_like(at),))
    difference = (of(at + h) - of(at - h)) / (2 * h)
    torch.testing.assert_close(reverse, difference, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forward, reverse, rtol=1e-8, atol=1e-10)
