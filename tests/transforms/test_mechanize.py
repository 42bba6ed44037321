"""Learned scales of updates: as Optax's, and in every way to step."""

import jax
import numpy as np
import optax
import pytest
import torch
from optax.contrib import mechanize as twin
from optax_runs import random_tree, to_torch
from trees import assert_equal, clone, params_like

import optimfx as fx


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (fx.mechanize(fx.adam(1.0)), twin(optax.adam(1.0))),
        (
            fx.mechanize(fx.sgd(1.0), weight_decay=0.1, s_init=1e-2, num_betas=3),
            twin(optax.sgd(1.0), weight_decay=0.1, s_init=1e-2, num_betas=3),
        ),
    ],
    ids=["default", "of few betas"],
)
def test_runs_equal_optax(ours, theirs):
    start = random_tree(np.random.default_rng(0))
    params, twin_params = to_torch(start), jax.tree.map(jax.numpy.asarray, start)
    state, twin_state = ours.init(params), theirs.init(twin_params)
    update = jax.jit(theirs.update)
    for _ in range(20):
        grads = {name: p**3 + 0.1 for name, p in params.items()}
        params, state = fx.step(ours, grads, state, params)
        updates, twin_state = update(jax.tree.map(lambda p: p**3 + 0.1, twin_params), twin_state, twin_params)
        twin_params = optax.apply_updates(twin_params, updates)
        for name in params:
            np.testing.assert_allclose(params[name], twin_params[name], rtol=1e-9, atol=1e-9)
        for name in "rmvs":
            np.testing.assert_allclose(getattr(state, name), getattr(twin_state, name), rtol=1e-9, atol=1e-12)


def test_every_way_to_step_is_the_same():
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.mechanize(fx.adam(1.0), s_init=1e-2))
    params = params_like(torch.float64)
    runs = {name: (clone(params), tx.init(params)) for name in ("step", "in place", "update", "compiled")}
    compiled = torch.compile(lambda g, s, p: fx.step(tx, g, s, p), fullgraph=True, backend="eager")
    for _ in range(4):
        grads = clone(runs["step"][0])
        for name, (p, s) in runs.items():
            if name == "update":
                updates, s = tx.update(grads, s, p)
                p = fx.apply_updates(p, updates)
            elif name == "compiled":
                p, s = compiled(clone(grads), s, p)
            else:
                p, s = fx.step(tx, clone(grads), s, p, inplace=name == "in place")
            runs[name] = p, s
        for p, _ in runs.values():
            assert_equal(p, runs["step"][0], rtol=1e-12, atol=1e-12)


def test_a_scale_for_each_model():
    tx = fx.mechanize(fx.sgd(1.0), s_init=1e-2)
    models = {"w": torch.randn(3, 4, dtype=torch.float64)}

    def four(params):
        state = tx.init(params)
        for _ in range(4):
            params, state = fx.step(tx, params, state, params)
        return params

    expected = torch.stack([four({"w": w})["w"] for w in models["w"]])
    torch.testing.assert_close(torch.vmap(four)(models)["w"], expected, rtol=1e-12, atol=1e-12)


def test_a_leaf_without_gradient_stays():
    tx, params = fx.mechanize(fx.sgd(1.0), s_init=0.1), {"w": torch.ones(2), "b": torch.ones(1)}
    state = tx.init(params)
    for _ in range(3):
        params, state = fx.step(tx, {"w": params["w"], "b": None}, state, params)
    assert torch.equal(params["b"], torch.ones(1)) and not torch.equal(params["w"], torch.ones(2))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: fx.mechanize(fx.sgd), "base_optimizer"),
        (lambda: fx.mechanize(fx.sgd(), s_init=0.0), "s_init"),
        (lambda: fx.mechanize(fx.sgd(), num_betas=0), "num_betas must be an integer in"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_params_are_needed():
    params = {"w": torch.ones(2)}
    tx = fx.mechanize(fx.sgd())
    with pytest.raises(ValueError, match="mechanize needs params"):
        tx.update(params, tx.init(params))
