"""Noise on gradients, and gradients of single examples: against their definitions, and Optax where it draws nothing."""

import jax
import numpy as np
import optax
import optax.contrib
import pytest
import torch

import optimfx as fx
from optimfx.ops.random import normal_like

ROW = torch.Generator().manual_seed(0)
SIZES = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
"""Sizes of the gradients of five examples, some of which are clipped."""
GRADS = {
    name: torch.einsum("i,i...->i...", SIZES, torch.randn(5, *shape, generator=ROW))
    for name, shape in (("w", (4, 3)), ("b", (3,)), ("s", ()))
}
PARAMS = {name: torch.zeros(g.shape[1:]) for name, g in GRADS.items()}


def test_noise_is_normal_and_independent():
    """Moments to five deviations; no two seeds, steps or leaves share it, and none is correlated with its neighbour."""
    x = torch.zeros(100_000, dtype=torch.float64)
    first = normal_like(x, 1, 1)
    others = [normal_like(x, 2, 1), normal_like(x, 1, 2), normal_like(x, 1, 1, leaf=1), first.roll(1)]
    n = x.numel()
    for moment, expected, spread in ((1, 0.0, 1.0), (2, 1.0, 2**0.5), (3, 0.0, 15**0.5), (4, 3.0, 96**0.5)):
        assert abs((first**moment).mean().item() - expected) < 5 * spread / n**0.5
    for other in others:
        assert abs((first * other).mean().item()) < 5 / n**0.5
    assert torch.equal(first, normal_like(x, 1, 1))
    assert first.abs().max() < 10 and first.isfinite().all()


def test_noise_decays_and_is_a_function_of_its_arguments():
    tx, zeros = fx.add_noise(0.04, 1.0, seed=3), {"w": torch.zeros(50_000), "v": torch.zeros(50_000), "no": None}
    state = tx.init(zeros)
    first, after = tx.update(zeros, state)
    second, _ = tx.update(zeros, after)
    assert first["no"] is None and not torch.equal(first["w"], first["v"])
    assert first["w"].std().item() == pytest.approx(0.2, rel=0.02)
    assert second["w"].std().item() == pytest.approx(0.2 / 2**0.5, rel=0.02)
    again, _ = tx.update(zeros, state)
    assert torch.equal(again["w"], first["w"])


def test_noisy_sgd_is_sgd_with_noise():
    params = {"w": torch.randn(40_000, generator=ROW)}
    tx = fx.noisy_sgd(lr=0.5, eta=0.01, seed=1)
    moved, _ = fx.step(tx, params, tx.init(params), params)
    assert ((moved["w"] - params["w"] / 2) / 0.5).std().item() == pytest.approx(0.1, rel=0.03)


def to_jax(tree):
    return {name: jax.numpy.asarray(x.numpy()) for name, x in tree.items()}


def assert_same(ours, theirs):
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_clipping_of_examples_equals_optax():
    ours, theirs = fx.per_example_global_norm_clip(GRADS, 3.0), optax.per_example_global_norm_clip(to_jax(GRADS), 3.0)
    assert_same(ours[0], theirs[0])
    assert 0 < ours[1].item() == int(theirs[1]) < 5
    for uniform in (True, False):
        ours = fx.per_example_layer_norm_clip(GRADS, 3.0, uniform)
        theirs = optax.per_example_layer_norm_clip(to_jax(GRADS), 3.0, uniform)
        assert_same(ours[0], theirs[0])
        assert {name: int(x) for name, x in ours[1].items()} == {name: int(x) for name, x in theirs[1].items()}


@pytest.mark.parametrize("inplace", [False, True])
def test_private_training_without_noise_equals_optax(inplace):
    tx = fx.dpsgd(0.1, 1.0, 0.0, seed=1, momentum=0.9)
    twin = optax.contrib.dpsgd(0.1, 1.0, 0.0, seed=1, momentum=0.9)
    params, theirs = {name: p.clone() for name, p in PARAMS.items()}, to_jax(PARAMS)
    state, twin_state = tx.init(params), twin.init(theirs)
    for _ in range(3):
        params, state = fx.step(tx, GRADS, state, params, inplace=inplace)
        updates, twin_state = twin.update(to_jax(GRADS), twin_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    assert_same(params, theirs)


def test_private_noise_has_its_size():
    grads = {"w": torch.zeros(10, 40_000)}
    updates, _ = (tx := fx.differentially_private_aggregate(2.0, 3.0, seed=1)).update(grads, tx.init(grads))
    assert updates["w"].std().item() == pytest.approx(2.0 * 3.0 / 10, rel=0.03)


def test_gradients_without_examples_are_refused():
    tx, params = fx.dpsgd(0.1, 1.0, 1.0, seed=1), {"w": torch.ones(3), "b": torch.ones(())}
    with pytest.raises(ValueError, match="first dimension that counts them"):
        fx.step(tx, {"w": torch.ones(2, 3), "b": torch.ones(3)}, tx.init(params), params)
