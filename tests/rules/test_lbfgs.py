"""L-BFGS: torch's trajectory, and a batch of problems in one call."""

import math

import pytest
import torch
from catalogue import ALGORITHMS, rows
from torch.optim.lbfgs import _strong_wolfe
from trees import assert_equal, leaves, stack

import optimfx as fx
from optimfx.execution import explain
from optimfx.rules._shared.line_search import Trial, strong_wolfe

LBFGS = [row for row in ALGORITHMS if row.name == "lbfgs"]
CALLS = 6


def rosenbrock(params):
    x = params["x"]
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def logistic(params, samples=40, features=5):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, features, dtype=torch.float64, generator=generator)
    noise = torch.randn(samples, dtype=torch.float64, generator=generator)
    y = (x.sum(1) + noise > 0).double()
    logits = x @ params["w"] + params["b"]
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y) + 1e-3 * params["w"].pow(2).sum()


PROBLEMS = {
    "rosenbrock": (rosenbrock, {"x": torch.tensor([-1.2, 1.0, 0.3, 2.0], dtype=torch.float64)}),
    "steep": (lambda params: 1e8 * (params["x"] ** 2).sum(), {"x": torch.tensor([1.0, -0.5], dtype=torch.float64)}),
    "logistic": (logistic, {"w": torch.zeros(5, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}),
}
OPTIONS = {
    "default": {},
    "short history": dict(lr=0.1, history_size=3),
    "wolfe": dict(line_search_fn="strong_wolfe"),
    "wolfe, short history": dict(line_search_fn="strong_wolfe", history_size=3, max_iter=10),
    "wolfe, few evaluations": dict(line_search_fn="strong_wolfe", max_eval=3),
    "wolfe, one evaluation": dict(line_search_fn="strong_wolfe", max_eval=1),
    "steps too small to matter": dict(lr=1e-10),
    "loose": dict(tolerance_grad=1e-2),
    "one iteration": dict(max_iter=1),
}


def value_and_grad(function):
    return lambda params: torch.func.grad_and_value(function)(params)[::-1]


@rows(LBFGS, column="torch")
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_torchs_trajectory(row, problem, options, figure):
    """Parameters, value, evaluations and state. To 1e-9: rounding grows along a trajectory."""
    function, params = PROBLEMS[problem]
    theirs = {name: p.clone().requires_grad_() for name, p in params.items()}
    optimizer = torch.optim.LBFGS(list(theirs.values()), **options)

    def closure():
        optimizer.zero_grad()
        value = function(theirs)
        value.backward()
        return value

    tx = fx.lbfgs(**options)
    state = tx.init(params)
    close = dict(rtol=1e-9, atol=1e-9)
    for _ in range(CALLS):
        optimizer.step(closure)
        params, state = fx.step(tx, None, state, params, value_and_grad_fn=value_and_grad(function))
        kept = optimizer.state[next(iter(theirs.values()))]
        assert_equal(params, {name: p.detach() for name, p in theirs.items()}, **close)
        assert (int(state.func_evals), int(state.n_iter)) == (kept["func_evals"], kept["n_iter"])
        torch.testing.assert_close(function(params), function(theirs).detach(), **close)
        torch.testing.assert_close(float(state.prev_loss), float(kept["prev_loss"]), **close)
        torch.testing.assert_close(state.prev_flat_grad, kept["prev_flat_grad"], **close)
        known = len(kept["old_dirs"])
        assert int((state.ro != 0).sum()) == known
        if known:
            assert_equal(state.old_dirs[-known:], torch.stack(kept["old_dirs"]), rtol=1e-6, atol=1e-9)
            assert_equal(state.old_stps[-known:], torch.stack(kept["old_stps"]), rtol=1e-6, atol=1e-9)
    differences = [(p - q.detach()).abs().max() for p, q in zip(leaves(params), leaves(theirs))]
    figure(float(max(differences)), "not ulp: the largest difference in float64, where rounding grows along the way")
    assert state.step == CALLS


@pytest.mark.parametrize("t", [1e-2, 0.3, 1.0, 7.0])
@pytest.mark.parametrize("max_trials", [1, 2, 5, 25])
@pytest.mark.parametrize("tolerance_change", [1e-9, 0.3])
def test_the_line_search_is_torchs(t, max_trials, tolerance_change):
    """The point and the evaluations, on values and slopes that need not fit together: every branch is taken."""
    d = torch.ones(1, dtype=torch.float64)
    for _ in range(100):
        height, width, phase, tilt, steps = torch.randn(5, dtype=torch.float64).tolist()

        def at(t, height=height, width=10 * width, phase=phase, tilt=tilt, stepped=steps > 0):
            value = height * math.sin(width * t) - tilt * t
            value = math.floor(2 * value) if stepped else value  # with ties
            slope = tilt * math.cos(width * t + phase)
            return Trial(t, value, torch.tensor([slope], dtype=torch.float64), slope)

        start = at(0.0)._replace(slope=-abs(tilt), grad=torch.tensor([-abs(tilt)], dtype=torch.float64))
        found, evaluations = strong_wolfe(at, start, t, 1.0, tolerance_change, max_trials)
        value, grad, step, expected = _strong_wolfe(
            lambda x, t, d, at=at: (at(float(t)).value, at(float(t)).grad),
            torch.zeros(1),
            t,
            d,
            start.value,
            start.grad,
            start.grad.dot(d),
            tolerance_change=tolerance_change,
            max_ls=max_trials,
        )
        assert evaluations == expected
        close = dict(rtol=1e-9, atol=1e-9)
        torch.testing.assert_close((found.t, float(found.value)), (float(step), float(value)), **close)
        torch.testing.assert_close(found.grad, grad, **close)


STARTS = [[-1.2, 1.0], [0.5, 0.5], [1.0, 1.0], [2.0, -1.0], [1 + 1e-5, (1 + 1e-5) ** 2]]


@pytest.mark.parametrize("tolerances", [(1e-1, 1e-9), (1e-12, 1e-3)], ids=["gradient", "slope"])
def test_a_batch_of_problems_is_the_loop_over_them(tolerances):
    """Some are solved at the start, some late: each stops on its own, and keeps its own counts."""
    tx = fx.lbfgs(lr=0.2, max_iter=12, history_size=4, tolerance_grad=tolerances[0], tolerance_change=tolerances[1])
    problems = [{"x": torch.tensor(x, dtype=torch.float64)} for x in STARTS]

    def solve(params):
        state = tx.init(params)
        for _ in range(3):
            params, state = fx.step(tx, None, state, params, value_and_grad_fn=value_and_grad(rosenbrock))
        return params, state

    expected = [solve(params) for params in problems]
    params, state = torch.vmap(solve)(stack(problems))
    assert_equal((params, state), stack(expected), rtol=1e-9, atol=1e-9)
    counts = [int(state.func_evals) for _, state in expected]
    assert len(set(counts)) > 1 and min(counts) == 3  # one evaluation in each update, of the problem that is solved


def test_a_value_that_is_known_is_not_evaluated_again():
    function, params = PROBLEMS["rosenbrock"]
    calls = []

    def counted(params):
        calls.append(1)
        return value_and_grad(function)(params)

    tx = fx.lbfgs(max_iter=3)
    value, grads = value_and_grad(function)(params)
    given = fx.step(tx, grads, tx.init(params), params, value_and_grad_fn=counted, value=value)
    assert len(calls) == 2
    assert_equal(given, fx.step(tx, None, tx.init(params), params, value_and_grad_fn=counted))
    assert len(calls) == 5


def test_plain_autograd_functions_and_leaves_without_gradient():
    params = {"x": torch.tensor([-1.2, 1.0]), "unused": torch.ones(2)}

    def by_autograd(params):
        x = params["x"].detach().requires_grad_()
        value = rosenbrock({"x": x})
        return value, {"x": torch.autograd.grad(value, x)[0], "unused": None}

    tx = fx.lbfgs(line_search_fn="strong_wolfe", max_iter=50)
    stepped, _ = fx.step(tx, None, tx.init(params), params, value_and_grad_fn=by_autograd, inplace=True)
    assert stepped["x"] is params["x"]
    assert_equal(stepped, {"x": torch.ones(2), "unused": torch.ones(2)}, rtol=1e-3, atol=1e-3)


def test_the_function_meets_none_at_the_leaves_of_others():
    params = {"x": torch.tensor([-1.2, 1.0]), "other": torch.ones(2)}
    met = []

    def value_and_grad(params):
        met.append(params["other"])
        return F({"x": params["x"]})[0], {**F({"x": params["x"]})[1], "other": None}

    tx = fx.masked(fx.lbfgs(max_iter=2), {"x": True, "other": False})
    params, _ = fx.step(tx, {**params, "other": None}, tx.init(params), params, value_and_grad_fn=value_and_grad)
    assert met == [None, None]
    assert_equal(params["other"], torch.ones(2))


def test_sparse_gradients_are_made_dense():
    params = torch.ones(4, 2)

    def sparse(params):
        return (params[1] ** 2).sum(), (2 * params * torch.tensor([[0.0], [1], [0], [0]])).to_sparse(1)

    def dense(params):
        value, grad = sparse(params)
        return value, grad.to_dense()

    tx = fx.lbfgs()
    assert_equal(
        fx.step(tx, None, tx.init(params), params, value_and_grad_fn=sparse),
        fx.step(tx, None, tx.init(params), params, value_and_grad_fn=dense),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_lbfgs_state_dtype(dtype):
    function, params = PROBLEMS["rosenbrock"]
    params = {"x": params["x"].float()}
    tx = fx.lbfgs(state_dtype=dtype, line_search_fn="strong_wolfe", history_size=4)
    state = tx.init(params)
    for _ in range(8):
        params, state = fx.step(tx, None, state, params, value_and_grad_fn=value_and_grad(function))
    vectors = (state.d, state.old_dirs, state.old_stps, state.ro, state.prev_flat_grad)
    assert all(vector.dtype == dtype for vector in vectors)
    assert params["x"].dtype == torch.float32
    assert function(params) < 4


def test_lbfgs_explains_itself():
    (row,) = explain(fx.lbfgs(), PROBLEMS["logistic"][1])
    assert row == ("lbfgs", "eager", 2, 6, "float64", "cpu", "one vector for all leaves")


PARAMS = {"x": torch.ones(2)}
STATE = fx.lbfgs().init(PARAMS)
F = value_and_grad(rosenbrock)
MISUSE = {
    "no function": (
        lambda tx: fx.step(tx, PARAMS, STATE, PARAMS),
        TypeError,
        r"lbfgs evaluates the function itself: call .*value_and_grad_fn=f\)",
    ),
    "no parameters": (lambda tx: tx.update(PARAMS, STATE, value_and_grad_fn=F), ValueError, "needs the parameters"),
    "the order of grad_and_value": (
        lambda tx: fx.step(tx, None, STATE, PARAMS, value_and_grad_fn=torch.func.grad_and_value(rosenbrock)),
        TypeError,
        "got a dict first. torch.func.grad_and_value returns \\(grads, value\\): swap them",
    ),
    "a gradient of another shape": (
        lambda tx: fx.step(tx, None, STATE, PARAMS, value_and_grad_fn=lambda p: (1.0, {"x": torch.ones(3)})),
        ValueError,
        r"grads\['x'\] has shape \(3,\), but params\['x'\] has shape \(2,\)",
    ),
    "a state of other parameters": (
        lambda tx: fx.step(tx, None, tx.init({"x": torch.ones(3)}), PARAMS, value_and_grad_fn=F),
        ValueError,
        r"state.d has shape \(3,\), but the parameters have 2 elements",
    ),
    "a state of another algorithm": (
        lambda tx: fx.step(tx, None, fx.sgd().init(PARAMS), PARAMS, value_and_grad_fn=F),
        TypeError,
        "lbfgs: the state must be of type LBFGSState; got SGDState",
    ),
    "an unknown line search": (lambda tx: fx.lbfgs(line_search_fn="armijo"), ValueError, "None or 'strong_wolfe'"),
    "no history": (lambda tx: fx.lbfgs(history_size=0), ValueError, r"history_size must be an integer in \[1, inf\)"),
    "a line search under vmap": (
        lambda tx: torch.vmap(
            lambda x: fx.step(
                fx.lbfgs(line_search_fn="strong_wolfe"), None, STATE, {"x": x}, value_and_grad_fn=F
            )
        )(torch.ones(3, 2)),
        ValueError,
        "line_search_fn='strong_wolfe' needs concrete values.*use line_search_fn=None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSE)
def test_lbfgs_refuses_bad_arguments(name):
    call, kind, message = MISUSE[name]
    with pytest.raises(kind, match=message):
        call(fx.lbfgs())


@pytest.mark.parametrize("beyond", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("start", [5.0, 50.0])
def test_the_line_search_comes_back_from_where_the_function_is_not_finite(start, beyond):
    """x - log(x), least at 1: a whole step from near 0 goes below 0."""

    def value_and_grad(x):
        def value(x):
            inside = torch.where(x > 0, x, 1.0)
            return torch.where(x > 0, inside - inside.log(), beyond).sum()

        return torch.func.grad_and_value(value)(x)[::-1]

    tx, x = fx.lbfgs(line_search_fn="strong_wolfe"), torch.tensor([start, 0.01], dtype=torch.float64)
    state = tx.init(x)
    for _ in range(5):
        x, state = fx.step(tx, None, state, x, value_and_grad_fn=value_and_grad)
    # It ends where the value changes by less than 1e-9, which is quadratic in the distance.
    torch.testing.assert_close(x, torch.ones_like(x), rtol=1e-4, atol=1e-4)
