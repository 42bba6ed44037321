"""L-BFGS's direction and line searches: runs as Optax's, every way to step, many problems at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from optax_runs import to_torch
from trees import assert_equal, clone

import optimfx as fx

START = {"w": np.array([[-1.2, 0.7], [0.3, 1.5]]), "b": np.array([1.0, -0.4, 0.2])}


def quartic(xp, p):
    return xp.sum(xp.cosh(p["w"])) + 3 * xp.sum((p["b"] - 1) ** 4) + xp.sum(p["w"] ** 2) * xp.sum(p["b"] ** 2)


def rosenbrock(xp, p):
    x = xp.concatenate([p["w"].reshape(-1), p["b"]])
    return xp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def wall(xp, p):
    """Not finite beyond a distance that first steps overshoot."""
    return -xp.sum(xp.log(2 - p["w"])) + xp.sum(xp.exp(4 * p["b"]))


FUNCTIONS = [wall, rosenbrock, quartic]

SEARCHES = {
    "backtracking": (fx.scale_by_backtracking_linesearch(15), optax.scale_by_backtracking_linesearch(15)),
    "backtracking, its options": (
        fx.scale_by_backtracking_linesearch(4, 0.3, 0.5, 3.0, max_lr=0.5, atol=1e-3, rtol=1e-3, store_grad=True),
        optax.scale_by_backtracking_linesearch(4, 0.3, 0.5, 3.0, 0.5, 1e-3, 1e-3, True),
    ),
    "zoom": (fx.scale_by_zoom_linesearch(15), optax.scale_by_zoom_linesearch(15)),
    "zoom, exact": (
        fx.scale_by_zoom_linesearch(25, curv_rtol=0.01, approx_dec_rtol=None),
        optax.scale_by_zoom_linesearch(25, curv_rtol=0.01, approx_dec_rtol=None),
    ),
    "zoom, limited": (
        fx.scale_by_zoom_linesearch(6, max_lr=0.02, curv_rtol=0.1, increase_factor=3.0, tol=1e-6),
        optax.scale_by_zoom_linesearch(6, 0.02, 1e-6, 3.0, curv_rtol=0.1),
    ),
    "zoom, few": (
        fx.scale_by_zoom_linesearch(2, curv_rtol=0.001, stepsize_precision=0.1, initial_guess_strategy="one"),
        optax.scale_by_zoom_linesearch(2, curv_rtol=0.001, stepsize_precision=0.1, initial_guess_strategy="one"),
    ),
}

DIRECTIONS = {
    "sgd": (fx.sgd(1.0), optax.sgd(1.0)),
    "lbfgs": (
        fx.chain(fx.scale_by_lbfgs(), fx.scale(-1.0)),
        optax.chain(optax.scale_by_lbfgs(), optax.scale(-1.0)),
    ),
    "lbfgs, its options": (
        fx.chain(fx.scale_by_lbfgs(2, False), fx.scale(-1.0)),
        optax.chain(optax.scale_by_lbfgs(2, False), optax.scale(-1.0)),
    ),
}

PAIRED = dict(zip(SEARCHES, ["sgd", "lbfgs", "lbfgs", "lbfgs", "lbfgs, its options", "sgd"], strict=True))


@pytest.mark.thorough(
    lambda search, direction, **_: search not in ("zoom", "zoom, few") and PAIRED[search] != direction
)
@pytest.mark.parametrize(
    "direction, function", list(zip(DIRECTIONS, FUNCTIONS)), ids=lambda x: getattr(x, "__name__", x)
)
@pytest.mark.parametrize("search", SEARCHES)
def test_runs_equal_optax(search, direction, function):
    ours = fx.chain(DIRECTIONS[direction][0], SEARCHES[search][0])
    theirs = optax.chain(DIRECTIONS[direction][1], SEARCHES[search][1])
    params, twins = to_torch(START), jax.tree.map(jnp.asarray, START)
    state, twin_state = ours.init(params), theirs.init(twins)
    evaluate = jax.jit(jax.value_and_grad(lambda p: function(jnp, p)))

    @jax.jit
    def twin_step(p, s):
        value, grad = jax.value_and_grad(lambda p: function(jnp, p))(p)
        updates, s = theirs.update(grad, s, p, value=value, grad=grad, value_fn=lambda p: function(jnp, p))
        return optax.apply_updates(p, updates), s

    for _ in range(12):
        value, grad = evaluate(jax.tree.map(jnp.asarray, {k: p.numpy() for k, p in params.items()}))
        grad = to_torch(jax.tree.map(np.asarray, grad))
        how = {"value": torch.tensor(float(value), dtype=torch.float64), "grad": grad}
        params, state = fx.step(ours, grad, state, params, **how, value_fn=lambda p: function(torch, p))
        twins, twin_state = twin_step(twins, twin_state)
        found, wanted = state[-1], twin_state[-1]
        assert found.num_linesearch_steps == int(wanted.info.num_linesearch_steps)
        np.testing.assert_allclose(found.lr, wanted.learning_rate, rtol=1e-6)
        np.testing.assert_allclose(found.value, wanted.value, rtol=1e-9)
        for name in params:
            np.testing.assert_allclose(params[name], twins[name], rtol=1e-7, atol=1e-7)
            if found.grad != ():
                np.testing.assert_allclose(found.grad[name], wanted.grad[name], rtol=1e-6, atol=1e-6)


SOLVERS = {
    "zoom": fx.chain(fx.scale_by_lbfgs(5), fx.scale(-1.0), fx.scale_by_zoom_linesearch(5, curv_rtol=0.1)),
    "backtracking": fx.chain(fx.sgd(1.0), fx.scale_by_backtracking_linesearch(8, store_grad=True)),
}


def solve(tx, params, way=fx.step, steps=4, **how):
    """Steps on a quartic, whose value and gradient come from the state where they can."""
    state, value_and_grad = tx.init(params), fx.value_and_grad_from_state(lambda p: quartic(torch, p))
    for _ in range(steps):
        value, grad = value_and_grad(params, state=state)
        given = {"value": value, "grad": grad, "value_fn": lambda p: quartic(torch, p)}
        params, state = way(tx, clone(grad), state, params, **given, **how)
    return params, state


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_way_to_step_is_the_same(solver):
    tx = SOLVERS[solver]

    def update(tx, updates, state, params, **given):
        updates, state = tx.update(updates, state, params, **given)
        return fx.apply_updates(params, updates), state

    wanted = solve(tx, to_torch(START))
    compiled = torch.compile(fx.step, fullgraph=True, backend="eager")
    for found in (
        solve(tx, to_torch(START), inplace=True),
        solve(tx, to_torch(START), update),
        solve(tx, to_torch(START), compiled),
    ):
        for x, y in zip(found, wanted):
            assert_equal(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_problems_under_vmap_each_have_a_search_of_their_own(solver):
    starts = {name: torch.stack([p, 0.1 * p, 2 * p]) for name, p in to_torch(START).items()}
    found = torch.vmap(lambda p: solve(SOLVERS[solver], p))(starts)
    runs = [
        [solve(SOLVERS[solver], {name: p[i] for name, p in starts.items()}, steps=steps) for steps in range(1, 5)]
        for i in range(3)
    ]
    counts = [[int(fx.tree_get(state, "num_linesearch_steps")) for _, state in run] for run in runs]
    assert counts[0] != counts[1] != counts[2]
    each = [run[-1] for run in runs]
    for name, p in found[0].items():
        torch.testing.assert_close(p, torch.stack([params[name] for params, _ in each]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128], ids=str)
def test_other_dtypes_and_leaves_without_gradient(solver, dtype):
    """The value falls at each step; a leaf that is not in the function stays."""
    tx = SOLVERS[solver]
    params = {"w": torch.tensor([2.0, -1.0]).to(dtype), "still": torch.ones(2).to(dtype), "none": None}
    target = torch.tensor([1j, 1.0]).to(dtype) if dtype.is_complex else 1.0
    state, values = tx.init(params), []
    for _ in range(4):
        value, grad = fx.value_and_grad_from_state(lambda p: (p["w"] - target).abs().square().sum())(
            params, state=state
        )
        grad["still"] = None
        given = {"value": value, "grad": grad, "value_fn": lambda p: (p["w"] - target).abs().square().sum()}
        params, state = fx.step(tx, grad, state, params, **given)
        values.append(float(fx.tree_get(state, "value")))
    assert values == sorted(values, reverse=True) and values[-1] < 0.2
    assert_equal(params["still"], torch.ones(2).to(dtype))
    assert params["w"].dtype == dtype and params["none"] is None


def test_the_rate_is_0_where_no_value_is_finite():
    params = {"w": torch.ones(2)}
    grad = {"w": torch.full((2,), 1e4)}
    for tx in (fx.scale_by_backtracking_linesearch(3), fx.scale_by_zoom_linesearch(3)):
        f = lambda p: p["w"].sum() + torch.where((p["w"] != 1).any(), torch.nan, 0.0)  # noqa: E731
        updates, state = tx.update(grad, tx.init(params), params, value=2.0, grad=grad, value_fn=f)
        assert state.lr == 0 and (updates["w"] == 0).all() and state.decrease_error == torch.inf


def test_further_arguments_reach_the_function_that_names_them():
    tx, params = fx.chain(fx.sgd(1.0), fx.scale_by_zoom_linesearch(20)), {"w": torch.ones(3)}
    f = lambda p, *, target: ((p["w"] - target) ** 2).sum()  # noqa: E731
    grad = {"w": torch.full((3,), -4.0)}
    given = {"value": torch.tensor(12.0), "grad": grad, "value_fn": f, "target": 3.0, "not_for_it": None}
    params, _ = fx.step(tx, grad, tx.init(params), params, **given)
    assert f(params, target=3.0) < 1


def test_a_search_is_differentiable():
    """Where the rate does not depend on the start: exact steps on half the square end at its minimum."""
    tx = fx.chain(fx.sgd(1.0), fx.scale_by_zoom_linesearch(3))

    def end(w):
        params, grad = {"w": w}, {"w": w}
        given = {"value": (w**2).sum() / 2, "grad": grad, "value_fn": lambda p: (p["w"] ** 2).sum() / 2}
        return fx.step(tx, grad, tx.init(params), params, **given)[0]["w"].sum()

    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert_equal(torch.autograd.grad(end(w), w)[0], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: fx.scale_by_lbfgs(0), "memory_size must be an integer in"),
        (lambda: fx.scale_by_backtracking_linesearch(0), "max_backtracking_steps must be an integer in"),
        (lambda: fx.scale_by_backtracking_linesearch(3, decrease_factor=1.0), "decrease_factor"),
        (lambda: fx.scale_by_zoom_linesearch(3, curv_rtol=-1.0), "curv_rtol"),
        (lambda: fx.scale_by_zoom_linesearch(3, max_lr=-1.0), "max_lr"),
        (lambda: fx.scale_by_zoom_linesearch(3, approx_dec_rtol="no"), "approx_dec_rtol"),
        (lambda: fx.scale_by_zoom_linesearch(3, initial_guess_strategy="two"), "must be 'keep' or 'one'"),
    ],
)
def test_bad_arguments_are_refused(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


@pytest.mark.parametrize("tx", [fx.scale_by_zoom_linesearch(3), fx.scale_by_backtracking_linesearch(3)], ids=str)
@pytest.mark.parametrize(
    "given, match",
    [
        ({}, "needs value, grad, value_fn: call update"),
        ({"value_fn": lambda p: p["w"]}, "value_fn must return a 0-d tensor; got one of shape"),
        ({"value_fn": lambda p: 1.0}, "value_fn must return a 0-d tensor; got 1.0"),
        ({"grad": {}}, "grad does not have the structure of params"),
        ({"grad": {"w": torch.ones(2)}}, r"grad\['w'\] has shape"),
    ],
)
def test_a_bad_call_is_refused(tx, given, match):
    params = {"w": torch.ones(3)}
    given = {"value": torch.tensor(1.0), "grad": params, "value_fn": lambda p: p["w"].sum(), **given} if given else {}
    with pytest.raises((ValueError, TypeError), match=match):
        tx.update(params, tx.init(params), params, **given)


def test_a_state_of_other_parameters_is_refused():
    tx, params = fx.scale_by_lbfgs(), {"w": torch.ones(3)}
    state = tx.init({"w": torch.ones(2)})
    with pytest.raises(ValueError, match="of 2 numbers, but the parameters have 3"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="no value and gradient: end the chain"):
        fx.value_and_grad_from_state(lambda p: p["w"].sum())(params, state=state)
