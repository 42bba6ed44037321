"""Projections around a transformation: GaLore as Optax's, APOLLO beside a transcription, every way to step."""

import jax
import numpy as np
import optax.contrib
import pytest
import torch
from optax_runs import to_torch
from trees import assert_equal, clone

import optimfx as fx
from optimfx.ops.random import normal_like

SHAPES = {"tall": (6, 4), "wide": (3, 5), "square": (3, 3), "b": (4,), "s": ()}
MASK = {"tall": True, "wide": False, "square": True, "b": False, "s": True}


def random_tree(rng):
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (fx.galore(0.1, 2), optax.contrib.galore(0.1, 2)),
        (
            fx.galore(0.1, 1, 100, 0.5, fx.scale_by_lion(), 0.1, MASK),
            optax.contrib.galore(0.1, 1, 100, 0.5, optax.scale_by_lion(), 0.1, MASK),
        ),
        (fx.scale_by_galore(), optax.contrib.scale_by_galore()),
    ],
    ids=["adam", "lion", "of full rank"],
)
def test_runs_equal_optax(ours, theirs):
    """With one projection: the signs of the next one are LAPACK's choice, and moments change theirs with them."""
    rng = np.random.default_rng(0)
    start = random_tree(rng)
    params, twins = to_torch(start), jax.tree.map(jax.numpy.asarray, start)
    state, twin_state, update = ours.init(params), theirs.init(twins), jax.jit(theirs.update)
    for _ in range(6):
        grads = random_tree(rng)
        updates, state = ours.update(to_torch(grads), state, params)
        twin_updates, twin_state = update(jax.tree.map(jax.numpy.asarray, grads), twin_state, twins)
        for name in SHAPES:
            # Optax decomposes in float32.
            np.testing.assert_allclose(updates[name], twin_updates[name], rtol=2e-4, atol=2e-5)
        params, twins = fx.apply_updates(params, updates), optax.apply_updates(twins, twin_updates)


def test_galore_renews_its_projections():
    """Beside a transcription, with the same singular vectors."""
    tx, w = fx.scale_by_galore(2, 2, 0.5, fx.momentum(0.9)), torch.zeros(6, 4, dtype=torch.float64)
    state, total = tx.init(w), 0
    for t in range(5):
        grad = torch.randn(6, 4, dtype=torch.float64)
        if t % 2 == 0:
            p = torch.linalg.svd(grad, full_matrices=False)[0][:, :2]
        total = 0.9 * total + p.T @ grad
        update, state = tx.update(grad, state)
        assert_equal(update, 0.5 * p @ total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("by_channel", [True, False])
def test_apollo_is_the_paper(by_channel):
    """Beside a transcription in numpy, with the same random numbers."""
    rank, gap, growth, b1, b2, eps = 2, 2, 1.01, 0.9, 0.999, 1e-8
    tx = fx.scale_by_apollo(rank, gap, 3.0, by_channel, growth, seed=5)
    params = {"tall": torch.zeros(6, 4, dtype=torch.float64), "wide": torch.zeros(3, 5, dtype=torch.float64)}
    state, rng, known = tx.init(params), np.random.default_rng(0), {}
    for t in range(5):
        grads = {name: rng.standard_normal(p.shape) * (1 + t) for name, p in params.items()}
        updates, state = tx.update(to_torch(grads), state)
        for i, (name, g) in enumerate(grads.items()):
            g = g if g.shape[0] < g.shape[1] else g.T
            like = torch.empty(len(g), rank, dtype=torch.float64)
            p = normal_like(like, 5, torch.tensor(t // gap), i).numpy() / np.sqrt(rank)
            r = p.T @ g
            m, v, last = known.get(name, (0, 0, 0))
            m, v = b1 * m + (1 - b1) * r, b2 * v + (1 - b2) * r**2
            u = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
            s = np.linalg.norm(u, axis=0) / np.linalg.norm(r, axis=0)
            wanted = g * (s if by_channel else np.linalg.norm(u) / np.linalg.norm(r))
            norm = np.linalg.norm(wanted)
            if last and norm / last > growth:
                wanted = wanted * growth * last / norm
            known[name] = m, v, np.linalg.norm(wanted)
            wanted = 3 * (wanted if SHAPES[name][0] < SHAPES[name][1] else wanted.T)
            np.testing.assert_allclose(updates[name], wanted, rtol=1e-6)


LINKS = {"galore": fx.scale_by_galore(2, 2), "apollo": fx.scale_by_apollo(2, 2)}


@pytest.mark.parametrize("link", LINKS)
def test_every_way_to_step_is_the_same(link, fresh_compiler):
    tx = fx.chain(fx.clip_by_global_norm(1.0), LINKS[link], fx.add_decayed_weights(0.1), fx.scale_by_lr(0.1))
    rng = np.random.default_rng(0)
    params = {**to_torch(random_tree(rng)), "none": None, "stack": torch.tensor(rng.standard_normal((2, 4, 3)))}
    runs = {name: (clone(params), tx.init(params)) for name in ("step", "in place", "update", "compiled")}
    compiled = torch.compile(lambda g, s, p: fx.step(tx, g, s, p), fullgraph=True, backend="eager")
    for i in range(3):
        grads = {k: None if p is None else torch.tensor(rng.standard_normal(p.shape)) for k, p in params.items()}
        grads["b"] = grads["b"] if i else None
        for name, (p, s) in runs.items():
            given = clone(grads)
            if name == "update":
                updates, s = tx.update(given, s, p)
                p = fx.apply_updates(p, updates)
            elif name == "compiled":
                p, s = compiled(given, s, p)
            else:
                p, s = fx.step(tx, given, s, p, inplace=name == "in place")
            runs[name] = p, s
            if name != "in place":
                assert_equal(given, grads)
        for p, _ in runs.values():
            assert_equal(p, runs["step"][0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("link", LINKS)
def test_models_under_vmap_and_stacks_are_each_on_its_own(link):
    tx, models = LINKS[link], torch.randn(3, 5, 4, dtype=torch.float64)

    def train(w, steps=3):
        state = tx.init({"w": w})
        for _ in range(steps):
            updates, state = tx.update({"w": w + 1}, state)
            w = w - 0.1 * updates["w"]
        return w

    each = torch.stack([train(w) for w in models])
    assert_equal(torch.vmap(train)(models), each, rtol=1e-9, atol=1e-9)
    if link == "galore":  # APOLLO draws other numbers for each matrix of a stack
        assert_equal(train(models), each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("link", LINKS)
def test_half_precision_complex_numbers_and_kernels(link):
    tx = fx.as_matrices(LINKS[link])
    params = {
        "half": torch.randn(5, 3).bfloat16(),
        "complex": torch.randn(4, 4, dtype=torch.complex64),
        "kernel": torch.randn(8, 3, 3, 3),
    }
    state = tx.init(params)
    assert fx.tree_get(state, "exp_avg")["kernel"].numel() == 2 * {"galore": 8, "apollo": 27}[link]
    updates, state = tx.update(params, state)
    for name, p in params.items():
        assert updates[name].dtype == p.dtype and updates[name].shape == p.shape and updates[name].isfinite().all()
        inner = (updates[name] * p.conj()).real.sum()
        assert inner > 0  # it leads downwards


def test_bad_arguments_are_refused():
    for make, match in [
        (lambda: fx.scale_by_galore(0), "rank must be an integer in"),
        (lambda: fx.scale_by_galore(update_proj_gap=0), "update_proj_gap must be an integer in"),
        (lambda: fx.scale_by_galore(base_optimizer=fx.adam), "base_optimizer must be a GradientTransformation"),
        (lambda: fx.scale_by_apollo(max_growth=0.5), "max_growth"),
        (lambda: fx.scale_by_apollo(seed=-1), "seed must be an integer in"),
    ]:
        with pytest.raises((ValueError, TypeError), match=match):
            make()
    tx, params = fx.scale_by_galore(base_optimizer=fx.adamw()), {"w": torch.ones(3, 2)}
    with pytest.raises(ValueError, match="needs"):
        tx.update(params, tx.init(params), params)
    assert "rank=2" in repr(LINKS["apollo"]) and "scale_by_galore" in repr(LINKS["galore"])
    assert fx.explain(LINKS["galore"], params)
