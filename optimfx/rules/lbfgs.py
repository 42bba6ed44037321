"""L-BFGS. Liu and Nocedal, On the limited memory BFGS method for large scale optimization, 1989."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from optimfx import ops
from optimfx.core import AT_LEAST_ONE, DType, GradientTransformation, NonNegative, Scalar, check_count, factory
from optimfx.core.reprs import state_class
from optimfx.rules._shared.line_search import Trial, strong_wolfe
from optimfx.rules._shared.minimizer import minimizer
from optimfx.rules._shared.quasi_newton import History, Pair, direction, remember

Evaluation: TypeAlias = tuple[Scalar, Any]


@state_class
class LBFGSState(NamedTuple):
    step: Any  # shape=(): updates taken
    func_evals: Any  # shape=(): evaluations of the function
    n_iter: Any  # shape=(): iterations
    d: Any  # shape=(n,): the last direction
    t: Any  # shape=(): how far the last iteration went along it
    old_dirs: Any  # shape=(history_size, n): changes of the gradient, the newest last; 0 where there is none yet
    old_stps: Any  # shape=(history_size, n): changes of the parameters
    ro: Any  # shape=(history_size,): one over the products of the two; 0 where there is none yet
    H_diag: Any  # shape=(): scale of the first inverse Hessian
    prev_flat_grad: Any  # shape=(n,): gradient where the last iteration began
    prev_loss: Any  # shape=(): value there


class Point(NamedTuple):
    x: Any
    value: Scalar
    grad: Any
    history: History
    state: LBFGSState


def begin(x: Any, history_size: int, **hyper: Any) -> LBFGSState:
    vector = ops.zeros_like(x)
    history = ops.zeros(x, (history_size, ops.size(x)))
    return LBFGSState(0, 0, 0, vector, 0.0, history, history, ops.zeros(x, (history_size,)), 1.0, vector, 0.0)


def search(
    now: Point, slope: Scalar, evaluate: Callable[[Any], Evaluation], tolerance_change: Scalar, most: int
) -> tuple[Point, int]:
    """Search along the direction; return the point, and the evaluations that it took."""
    d = now.state.d

    def at(t: Scalar) -> Trial:
        value, grad = evaluate(ops.add(now.x, d, alpha=t))
        return Trial(t, value, grad, ops.dot(grad, d))

    start = Trial(0.0, now.value, now.grad, slope)
    found, evals = strong_wolfe(at, start, now.state.t, ops.max_abs(d), tolerance_change, most)
    x = ops.add(now.x, d, alpha=found.t)
    return Point(x, found.value, found.grad, now.history, now.state._replace(t=found.t)), evals


def minimize(
    x: Any, first: Evaluation, evaluate: Callable[[Any], Evaluation], state: LBFGSState, **hyper: Any
) -> tuple[Any, LBFGSState]:
    lr, max_iter, line_search_fn = hyper["lr"], hyper["max_iter"], hyper["line_search_fn"]
    tolerance_grad, tolerance_change = hyper["tolerance_grad"], hyper["tolerance_change"]
    most = state.func_evals + hyper["max_eval"]
    pairs = zip(ops.unbind(state.old_dirs), ops.unbind(state.old_stps), ops.unbind(state.ro))
    state = state._replace(step=state.step + 1, func_evals=state.func_evals + 1)
    now = Point(x, *first, tuple(Pair(*pair) for pair in pairs), state)
    done = ops.read_bool(ops.max_abs(now.grad) <= tolerance_grad)
    if line_search_fn and not isinstance(done, bool):
        raise ValueError(
            "line_search_fn='strong_wolfe' needs concrete values, which a torch.func transform and torch.compile do "
            "not have; use line_search_fn=None."
        )
    for i in range(max_iter):
        if done is True:
            break
        last = now.state
        history, scale = remember(now.history, last.H_diag, now.grad - last.prev_flat_grad, last.d * last.t)
        d = direction(now.grad, history, scale)
        t = lr * ops.where(ops.read_bool(last.n_iter == 0), 1 / ops.maximum(ops.norm(now.grad, ord=1), 1.0), 1.0)
        slope = ops.dot(now.grad, d)
        stuck = ops.read_bool(slope > -tolerance_change)
        state = last._replace(
            n_iter=last.n_iter + 1, d=d, t=t, H_diag=scale, prev_flat_grad=now.grad, prev_loss=now.value
        )
        stays = moves = now._replace(history=history, state=state)
        evals = 0
        if stuck is not True and line_search_fn:
            moves, evals = search(stays, slope, evaluate, tolerance_change, most - last.func_evals)
        elif stuck is not True:
            moves = stays._replace(x=ops.add(now.x, d, alpha=t))
            if i + 1 < max_iter:  # a direction after the last iteration would not be used
                value, grad = evaluate(moves.x)
                moves, evals = moves._replace(value=value, grad=grad), 1
        moves = moves._replace(state=moves.state._replace(func_evals=last.func_evals + evals))
        ends = (
            stuck
            | (ops.max_abs(moves.grad) <= tolerance_grad)
            | (ops.max_abs(d * moves.state.t) <= tolerance_change)
            | (ops.abs(moves.value - now.value) < tolerance_change)
            | (moves.state.func_evals >= most)
        )
        now = ops.select_tree(done, now, ops.select_tree(stuck, stays, moves))
        done = ops.read_bool(done | ends)
    old_dirs, old_stps, ro = (ops.stack(column) for column in zip(*now.history))
    return now.x, now.state._replace(old_dirs=old_dirs, old_stps=old_stps, ro=ro)


@factory
def lbfgs(
    lr: NonNegative = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: NonNegative = 1e-7,
    tolerance_change: NonNegative = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""L-BFGS: Newton's method with a Hessian approximated from the last few steps. One update is many iterations.

    .. math::
        d_k = -H_k \nabla f(x_k), \qquad x_{k+1} = x_k + t_k d_k

    :math:`H_k` is a multiple of the identity, corrected by the pairs :math:`s = x_{j+1} - x_j`,
    :math:`y = \nabla f(x_{j+1}) - \nabla f(x_j)` of the history. :math:`t_k` is ``lr`` (at the very first iteration
    times at most :math:`1 / \lVert \nabla f \rVert_1`), or what the line search finds from there.

    ``update(grads, state, params, value_and_grad_fn=f)`` evaluates ``f(params) -> (value, grads)`` itself, first at
    ``params``; to save that evaluation, give ``value=`` with ``grads``. Otherwise ``grads`` may be ``None``. A leaf
    without a gradient has the gradient 0. Inside :func:`~optimfx.masked` or :func:`~optimfx.partition`, ``f`` meets
    ``None`` at the leaves of other parts. Without line search it can be vmapped over problems, each of which stops on
    its own tolerances (all are evaluated ``max_iter`` times).

    Args:
        lr: learning rate :math:`\ge 0`.
        max_iter: the most iterations in an update.
        max_eval: the number of evaluations in an update after which no iteration begins; ``None``: 5/4 ``max_iter``.
        tolerance_grad: stop once no element of the gradient is larger.
        tolerance_change: stop once no parameter, or the value, changes by more than this, or once the slope is flatter.
        history_size: how many pairs are kept, at least 1.
        line_search_fn: ``"strong_wolfe"`` or ``None``.
        state_dtype: dtype of the state's vectors and matrices; ``None`` for that of the parameters.

    Returns:
        A transformation with state :class:`LBFGSState`, whose vectors are all parameters in one (``n`` elements).

    Raises:
        ValueError, TypeError: an argument is out of range; at ``update``, no ``params`` or ``value_and_grad_fn``.

    References:
        Liu and Nocedal, On the limited memory BFGS method for large scale optimization, 1989.

    As torch's. Optax's does one iteration in an update.

    >>> import torch, optimfx as fx
    >>> def rosenbrock(p):
    ...     return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
    >>> def value_and_grad(p):
    ...     return torch.func.grad_and_value(rosenbrock)(p)[::-1]
    >>> tx = fx.lbfgs(line_search_fn="strong_wolfe", max_iter=100)
    >>> params = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    >>> params, state = fx.step(tx, None, tx.init(params), params, value_and_grad_fn=value_and_grad)
    >>> params
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    check_count(AT_LEAST_ONE, max_iter=max_iter, history_size=history_size)
    max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
    check_count(AT_LEAST_ONE, max_eval=max_eval)
    if line_search_fn not in (None, "strong_wolfe"):
        raise ValueError(f"line_search_fn must be None or 'strong_wolfe'; got {line_search_fn!r}.")
    hyper = {"lr": lr, "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change}
    counts = {"max_iter": max_iter, "max_eval": max_eval, "history_size": history_size}
    return minimizer("lbfgs", begin, minimize, state_dtype, **hyper, **counts, line_search_fn=line_search_fn)
