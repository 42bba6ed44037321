"""Runs beside Optax's."""

import jax
import numpy as np
import optax
import torch

import optimfx as fx

jax.config.update("jax_enable_x64", True)

SHAPES = {"w": (4, 3), "b": (3,), "s": ()}


def random_tree(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def to_torch(tree):
    return {name: torch.tensor(value) for name, value in tree.items()}


def assert_same_run(tx: fx.GradientTransformation, twin: optax.GradientTransformation, steps: int = 20) -> float:
    """The largest difference."""
    largest = 0.0
    rng = np.random.default_rng(0)
    params = random_tree(rng)
    ours, theirs = to_torch(params), jax.tree.map(jax.numpy.asarray, params)
    state, twin_state = tx.init(ours), twin.init(theirs)
    for _ in range(steps):
        grads = random_tree(rng)
        updates, state = tx.update(to_torch(grads), state, ours)
        twin_updates, twin_state = twin.update(jax.tree.map(jax.numpy.asarray, grads), twin_state, theirs)
        ours, theirs = fx.apply_updates(ours, updates), optax.apply_updates(theirs, twin_updates)
        for name in SHAPES:
            np.testing.assert_allclose(updates[name], twin_updates[name], rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-10, atol=1e-10)
            largest = max(largest, float(np.abs(ours[name].numpy() - np.asarray(theirs[name])).max()))
    return largest
