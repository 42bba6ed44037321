"""Optimizers of matrices beside the papers' algorithms, written out plainly in float64."""

import pytest
import torch

import optimfx as fx

F64 = torch.float64


def newton_schulz(m, steps, a=3.4445, b=-4.7750, c=2.0315):
    x = m / max(m.norm().item(), 1e-7)
    x = x.T if m.shape[0] > m.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if m.shape[0] > m.shape[1] else x


def normuon(param, grads, lr, beta1, beta2, decay, eps, steps):
    """Algorithm 1 of Li et al., 2025."""
    rows, columns = param.shape
    m, v = torch.zeros_like(param), torch.zeros(rows, dtype=F64)
    for g in grads:
        m = beta1 * m + (1 - beta1) * g
        o = newton_schulz(m, steps)
        v = beta2 * v + (1 - beta2) * o.square().mean(1)
        o = o / (v.sqrt() + eps)[:, None]
        rate = 0.2 * lr * (rows * columns) ** 0.5 / o.norm()
        param = param - lr * decay * param - rate * o
    return param


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5), (5, 5)], ids=str)
def test_normuon_is_the_papers_algorithm(shape):
    param, grads = torch.randn(shape, dtype=F64), torch.randn(10, *shape, dtype=F64)
    tx = fx.normuon(lr=0.1, betas=(0.9, 0.8), weight_decay=0.2, eps=1e-4, ns_steps=4, ns_dtype=None)
    expected = normuon(param, grads, 0.1, 0.9, 0.8, 0.2, 1e-4, 4)
    state = tx.init([param])
    for g in grads:
        (param,), state = fx.step(tx, [g], state, [param])
    torch.testing.assert_close(param, expected, rtol=1e-12, atol=1e-12)


def test_fewer_steps_than_adamw_to_a_small_loss_of_an_ill_conditioned_regression():
    """Each at its best rate: a linear map of inputs whose scales go over two decades, in no particular directions."""
    torch.manual_seed(0)
    size, most = 16, 600
    target, turn = torch.randn(size, size), torch.linalg.qr(torch.randn(size, size))[0]
    inputs = (torch.randn(256, size) * torch.logspace(0, -2, size)) @ turn

    def steps_to(level, factory):
        fewest = most
        for lr in (0.03, 0.1, 0.3, 1.0):
            tx = factory(fx.schedules.cosine_annealing(lr, most), weight_decay=0.0)
            weight = torch.zeros(size, size)
            state = tx.init(weight)
            for step in range(fewest):
                error = inputs @ (weight - target).T
                if error.square().mean() < level:
                    fewest = step
                    break
                weight, state = fx.step(tx, error.T @ inputs / 256, state, weight)
        return fewest

    for level, adamw_is_first in ((1e-4, False), (1e-2, True)):
        few = {factory.__name__: steps_to(level, factory) for factory in (fx.muon, fx.normuon, fx.adamw)}
        assert all((few["adamw"] < few[name]) == adamw_is_first for name in ("muon", "normuon")), few
