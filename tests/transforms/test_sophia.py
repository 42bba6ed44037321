"""Sophia: as Optax's, with an exact diagonal; the estimator, exact where the Hessian is diagonal."""

import jax
import numpy as np
import optax
import pytest
import torch
from optax.contrib import sophia as twin
from optax_runs import random_tree, to_torch
from trees import assert_equal, clone

import optimfx as fx

OPTIONS = [
    {},
    {"update_interval": 3, "gamma": 0.5, "clip_threshold": 0.8, "weight_decay": 0.1},
    {"clip_threshold": None},
]


def objective(params):
    return sum((p**4).sum() / 12 for p in params.values() if p is not None)


def grads_of(params):
    return {name: p**3 / 3 for name, p in params.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_runs_equal_optax(options):
    exact = fx.stateless(lambda updates, params: {name: p**2 for name, p in params.items()})
    twin_exact = optax.stateless(lambda updates, params: jax.tree.map(lambda p: p**2, params))
    ours = fx.sophia(0.1, betas=(0.8, 0.9), hessian_diagonal_fn=exact, **options)
    theirs = twin(0.1, b1=0.8, b2=0.9, hessian_diagonal_fn=twin_exact, **options)
    start = random_tree(np.random.default_rng(0))
    params, twin_params = to_torch(start), jax.tree.map(jax.numpy.asarray, start)
    state, twin_state, update = ours.init(params), theirs.init(twin_params), jax.jit(theirs.update)
    for _ in range(8):
        params, state = fx.step(ours, grads_of(params), state, params)
        updates, twin_state = update(grads_of(twin_params), twin_state, twin_params)
        twin_params = optax.apply_updates(twin_params, updates)
        for name in params:
            np.testing.assert_allclose(params[name], twin_params[name], rtol=1e-9, atol=1e-9)


def test_the_estimate_of_a_diagonal_hessian_is_exact():
    params = {"w": torch.randn(4, 3, dtype=torch.float64), "none": None}
    tx = fx.hutchinson_estimator_diag_hessian(seed=3)
    estimate, state = tx.update(params, tx.init(params), params, obj_fn=objective)
    torch.testing.assert_close(estimate["w"], params["w"] ** 2)
    assert estimate["none"] is None and state.step == 1


def test_the_estimate_is_right_in_the_mean():
    matrix = torch.randn(5, 5, dtype=torch.float64)
    params = {"w": torch.zeros(5, dtype=torch.float64)}
    tx = fx.hutchinson_estimator_diag_hessian()
    state, total = tx.init(params), 0
    for _ in range(400):
        estimate, state = tx.update(params, state, params, obj_fn=lambda p: p["w"] @ matrix @ p["w"] / 2)
        total = total + estimate["w"]
    # The deviation of the mean of 400 is a twentieth of the row's norm, about 1.6; four of them.
    torch.testing.assert_close(total / 400, matrix.diagonal(), rtol=0, atol=0.4)


def test_every_way_to_step_is_the_same():
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.sophia(0.1, update_interval=2))
    params = {"w": torch.randn(4, 3, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
    step = lambda g, s, p: fx.step(tx, g, s, p, obj_fn=objective)  # noqa: E731
    ways = {
        "step": step,
        "in place": lambda g, s, p: fx.step(tx, g, s, p, inplace=True, obj_fn=objective),
        "compiled": torch.compile(step, fullgraph=True, backend="eager"),
    }
    runs = {name: (clone(params), tx.init(params)) for name in ways}
    for _ in range(4):
        for name, (p, s) in runs.items():
            runs[name] = ways[name](grads_of(p), s, p)
        for p, _ in runs.values():
            assert_equal(p, runs["step"][0], rtol=1e-12, atol=1e-12)


def test_a_diagonal_for_each_model():
    tx, models = fx.sophia(0.1, update_interval=2), torch.randn(3, 4, dtype=torch.float64)

    def three(w):
        params = {"w": w}
        state = tx.init(params)
        for _ in range(3):
            params, state = fx.step(tx, grads_of(params), state, params, obj_fn=objective)
        return params["w"]

    torch.testing.assert_close(torch.vmap(three)(models), torch.stack([three(w) for w in models]))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: fx.sophia(0.1, hessian_diagonal_fn=fx.sgd), "hessian_diagonal_fn"),
        (lambda: fx.sophia(0.1, update_interval=0), "update_interval must be an integer in"),
        (lambda: fx.sophia(0.1, betas=(1.0, 0.9)), "betas"),
        (lambda: fx.hutchinson_estimator_diag_hessian(-1), "seed must be an integer in"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_the_objective_is_needed():
    tx, params = fx.sophia(0.1), {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="needs params and obj_fn"):
        tx.update(params, tx.init(params), params)
