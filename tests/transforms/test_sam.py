"""Sharpness-aware minimization: as Optax's, call by call and in one call, and in every way to step."""

import jax
import numpy as np
import optax
import pytest
import torch
from optax.contrib import normalize
from optax.contrib import sam as twin
from optax_runs import assert_same_run, random_tree, to_torch
from trees import assert_equal, clone, params_like, random_like

import optimfx as fx

CLIMB = fx.chain(fx.normalize(), fx.sgd(0.1))
TWIN_CLIMB = optax.chain(normalize(), optax.sgd(0.1))
OPTIONS = [{}, {"sync_period": 3}, {"sync_period": 3, "reset_state": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_alternating_runs_equal_optax(options):
    climb, twin_climb = (fx.adam(0.1), optax.adam(0.1)) if "reset_state" in options else (CLIMB, TWIN_CLIMB)
    assert_same_run(fx.sam(fx.adam(0.1), climb, **options), twin(optax.adam(0.1), twin_climb, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opaque_runs_equal_optax(options):
    ours = fx.sam(fx.adam(0.1), CLIMB, opaque_mode=True, **options)
    theirs = twin(optax.adam(0.1), TWIN_CLIMB, opaque_mode=True, **options)
    start = random_tree(np.random.default_rng(0))
    params, twin_params = to_torch(start), jax.tree.map(jax.numpy.asarray, start)
    state, twin_state = ours.init(params), theirs.init(twin_params)
    for _ in range(5):
        params, state = fx.step(ours, grad(params, 0), state, params, grad_fn=grad)
        updates, twin_state = theirs.update(twin_grad(twin_params, 0), twin_state, twin_params, grad_fn=twin_grad)
        twin_params = optax.apply_updates(twin_params, updates)
        for name in params:
            np.testing.assert_allclose(params[name], twin_params[name], rtol=1e-10, atol=1e-10)


def grad(params, i):
    return {name: torch.sin(p) * (i + 1) for name, p in params.items()}


def twin_grad(params, i):
    return {name: jax.numpy.sin(p) * (i + 1) for name, p in params.items()}


def test_both_modes_take_the_same_steps():
    """A climb from the gradients at the start, in one call or in two."""
    params = {name: torch.randn(3, dtype=torch.float64) for name in "wb"}
    ways = {mode: fx.sam(fx.adamw(0.1), CLIMB, opaque_mode=mode) for mode in (False, True)}
    runs = {mode: (params, tx.init(params)) for mode, tx in ways.items()}
    for _ in range(3):
        for mode, (p, s) in runs.items():
            for _ in range(1 if mode else 2):
                p, s = fx.step(ways[mode], grad(p, 0), s, p, **({"grad_fn": grad} if mode else {}))
            runs[mode] = p, s
        assert_equal(runs[False][0], runs[True][0], rtol=1e-12, atol=1e-12)


def test_every_way_to_step_is_the_same():
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.sam(fx.adam(0.1), CLIMB, sync_period=3))
    params = params_like(torch.float64)
    runs = {
        name: (clone(params), tx.init(params))
        for name in ("step", "in place", "update", "compiled", "compiled in place")
    }
    compiled = torch.compile(lambda g, s, p, inplace: fx.step(tx, g, s, p, inplace=inplace), backend="eager")
    for _ in range(7):
        grads = random_like(params)
        given = clone(grads)
        for name, (p, s) in runs.items():
            if name == "update":
                updates, s = tx.update(grads, s, p)
                p = fx.apply_updates(p, updates)
            elif "compiled" in name:
                p, s = compiled(clone(grads), s, p, "place" in name)
            else:
                p, s = fx.step(tx, clone(grads), s, p, inplace=name == "in place")
            runs[name] = p, s
        assert_equal(grads, given)
        for p, _ in runs.values():
            assert_equal(p, runs["step"][0], rtol=1e-12, atol=1e-12)


def test_models_under_vmap():
    tx = fx.sam(fx.sgd(0.1), CLIMB)
    models = {"w": torch.randn(3, 4, dtype=torch.float64)}

    def four(params):
        state = tx.init(params)
        for _ in range(4):
            params, state = fx.step(tx, {"w": params["w"] ** 3}, state, params)
        return params

    expected = torch.stack([four({"w": w})["w"] for w in models["w"]])
    torch.testing.assert_close(torch.vmap(four)(models)["w"], expected, rtol=1e-12, atol=1e-12)


def test_a_leaf_without_a_gradient_comes_back():
    """It had one at the climb, and none at the step."""
    tx = fx.sam(fx.sgd(0.1), CLIMB)
    params = {"w": torch.ones(2), "b": torch.ones(1)}
    state = tx.init(params)
    uphill, state = fx.step(tx, {"w": torch.ones(2), "b": torch.ones(1)}, state, params)
    assert not torch.equal(uphill["b"], params["b"])
    after, state = fx.step(tx, {"w": torch.ones(2), "b": None}, state, uphill)
    torch.testing.assert_close(after["b"], params["b"])


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: fx.sam(fx.sgd, CLIMB), "optimizer"),
        (lambda: fx.sam(fx.sgd(), fx.sgd), "adv_optimizer"),
        (lambda: fx.sam(fx.sgd(), CLIMB, 0), "sync_period must be an integer in"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_what_is_missing_is_named():
    params = {"w": torch.ones(2)}
    tx = fx.sam(fx.sgd(), CLIMB, opaque_mode=True)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="needs grad_fn"):
        tx.update(params, tx.init(params), params)
