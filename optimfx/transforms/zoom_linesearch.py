"""A learning rate at which the function has fallen enough and is flat enough: bracketed, then zoomed in on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    AtLeastOne,
    Described,
    Description,
    GradientTransformation,
    Hyper,
    NonNegative,
    Params,
    PyTree,
    State,
    Updates,
    Value,
    check_count,
    check_hyper,
    factory,
    state_class,
    tracing,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.core.validation import POSITIVE
from optimfx.execution import check_state, count_from_zero
from optimfx.transforms.linesearch import Line, Trial, as_scalar, first_scalar, line_of, scaled, with_leaves

NAME = "scale_by_zoom_linesearch"


@state_class
class ScaleByZoomLinesearchState(NamedTuple):
    """The state of a line search that zooms in."""

    step: Tensor  # shape=(): updates taken
    lr: Tensor  # shape=(): the learning rate that was found last
    value: Tensor  # shape=(): value of the function there; infinite before the first search
    grad: PyTree  # like the parameters: its gradient there
    num_linesearch_steps: Tensor  # shape=(): evaluations that the last search took
    decrease_error: Tensor  # shape=(): by how much its last trial missed the decrease; 0 where it did not
    curvature_error: Tensor  # shape=(): by how much that was steeper than allowed; 0 where it was not


class End(NamedTuple):
    """An end of the interval."""

    lr: Tensor
    value: Tensor
    slope: Tensor


class Interval(NamedTuple):
    """Where the rate is sought."""

    is_bracketed: Any  # a bool, or a tensor under a tracer: whether it must be between the ends
    low: End  # the end with the lower value
    high: End
    before: End  # the end that was given up last


class Search(NamedTuple):
    """How far a search has come."""

    last: Trial
    interval: Interval
    safe: Trial  # the lowest that had fallen enough; the start if none had
    decrease_error: Tensor
    curvature_error: Tensor
    steps: Tensor  # shape=(): trials made
    is_met: Any  # whether the last trial is as it should be
    is_over: Any


def search(line: Line, first: Tensor, hyper: dict[str, Value], max_steps: int) -> Search:
    """Search along the line, beginning with a trial at ``first``.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.5 and 3.6.
    """
    start, zero = _end_at(line.start), torch.zeros_like(line.start.value)
    interval = Interval(False, start, start, start)
    now = Search(line.start, interval, line.start, zero + torch.inf, zero + torch.inf, zero, False, False)
    for i in range(max_steps):
        if now.is_over is True:
            break
        after = _try(line, now, first if i == 0 else None, hyper)
        after = ops.select_tree(now.is_over, now, after)
        interval = after.interval._replace(is_bracketed=tracing.read_bool(after.interval.is_bracketed))
        now = after._replace(interval=interval, is_over=tracing.read_bool(after.is_over))
    return now


def _end_at(trial: Trial) -> End:
    return End(trial.lr, trial.value, trial.slope)


def _try(line: Line, now: Search, first: Tensor | None, hyper: dict[str, Value]) -> Search:
    """Evaluate one more trial, and decide where to go on."""
    tol, longest, interval = hyper["tol"], hyper["max_lr"], now.interval
    wider = hyper["increase_factor"] * now.last.lr if first is None else first
    is_longest = torch.zeros_like(now.last.lr, dtype=torch.bool)
    if longest is not None:
        is_longest, wider = wider >= longest, ops.minimum(wider, longest)
    trial = line.trial_at(ops.select_tree(interval.is_bracketed, _between(interval), wider))
    decrease_error, curvature_error = _errors(trial, line.start, hyper)
    is_met = torch.maximum(decrease_error, curvature_error) <= tol
    is_safe, is_too_high = decrease_error <= tol, decrease_error > 0

    widened = _widen(now.last, trial, is_too_high, is_met, is_first=first is not None)
    narrowed = _narrow(interval, trial, is_too_high)
    is_lower = is_safe & (trial.value < now.safe.value)
    is_safe = tracing.read_bool(ops.select_tree(interval.is_bracketed, is_lower, is_safe))
    safe = ops.select_tree(is_safe, trial, now.safe)
    is_tiny = (interval.high.lr - interval.low.lr).abs() <= hyper["stepsize_precision"]
    # The greatest rate is taken if it has fallen enough, however steep it is.
    is_stuck = is_longest & ~widened.is_bracketed
    return Search(
        trial,
        ops.select_tree(interval.is_bracketed, narrowed, widened),
        safe,
        decrease_error,
        curvature_error,
        steps=now.steps + 1,
        is_met=ops.select_tree(interval.is_bracketed, is_met, is_met | is_stuck),
        is_over=is_met | ops.select_tree(interval.is_bracketed, is_tiny & (safe.lr > 0), is_stuck),
    )


def _widen(last: Trial, trial: Trial, is_too_high: Tensor, is_met: Tensor, is_first: bool) -> Interval:
    """Find the ends, once the function rises again: above the line of decrease, above the last trial, or by slope."""
    is_high = is_too_high if is_first else is_too_high | (trial.value >= last.value)
    is_low = (trial.slope >= 0) & ~is_high
    here, before = _end_at(trial), _end_at(last)
    low, high = ops.select_tree(is_low, (here, before), (before, here))
    return Interval(is_high | is_low | is_met, low, high, low)


def _narrow(interval: Interval, trial: Trial, is_too_high: Tensor) -> Interval:
    """Keep the part in which the function must have a minimum."""
    _, low, high, _ = interval
    here = _end_at(trial)
    is_high = is_too_high | (trial.value >= low.value)
    has_turned = (trial.slope * (high.lr - low.lr) >= 0) & ~is_high
    return Interval(
        torch.ones_like(is_high),
        low=ops.select_tree(is_high, low, here),
        high=ops.select_tree(is_high, here, ops.select_tree(has_turned, low, high)),
        before=ops.select_tree(is_high | has_turned, high, low),
    )


def _errors(trial: Trial, start: Trial, hyper: dict[str, Value]) -> tuple[Tensor, Tensor]:
    """By how much a trial misses the decrease, and by how much it is too steep."""
    slope_rtol, approx_dec_rtol = hyper["slope_rtol"], hyper["approx_dec_rtol"]
    decrease = trial.value - start.value - slope_rtol * trial.lr * start.slope
    if approx_dec_rtol is not None:
        # Near a minimum, differences of values are rounding errors; slopes still tell (Hager and Zhang, 2006).
        flatter = trial.slope - (2 * slope_rtol - 1) * start.slope
        near = trial.value - start.value - approx_dec_rtol * start.value.abs()
        decrease = torch.minimum(torch.maximum(flatter, near), decrease)
    curvature = trial.slope.abs() - hyper["curv_rtol"] * start.slope.abs()
    return _missed(decrease), _missed(curvature)


def _missed(error: Tensor) -> Tensor:
    return torch.where(error.isnan(), torch.inf, error.clamp(min=0))


def _between(interval: Interval) -> Tensor:
    """Where the cubic through three points is least, or the parabola through two; else, or near an end, the middle."""
    _, low, high, before = interval
    to_high, to_before = high.lr - low.lr, before.lr - low.lr
    above_high = high.value - low.value - low.slope * to_high
    above_before = before.value - low.value - low.slope * to_before
    cubes = (to_high * to_before) ** 2 * (to_high - to_before)
    a = (to_before**2 * above_high - to_high**2 * above_before) / cubes
    b = (to_high**3 * above_before - to_before**3 * above_high) / cubes
    cubic = low.lr + ((b * b - 3 * a * low.slope).sqrt() - b) / (3 * a)
    parabola = low.lr - low.slope * to_high**2 / (2 * above_high)
    left, right, width = torch.minimum(low.lr, high.lr), torch.maximum(low.lr, high.lr), to_high.abs()
    found = (low.lr + high.lr) / 2
    for guess, margin in ((parabola, 0.1 * width), (cubic, 0.2 * width)):
        found = torch.where((guess > left + margin) & (guess < right - margin), guess, found)
    return found


@dataclass(frozen=True, eq=False)
class ZoomLinesearch(Described):
    """The ``update`` of :func:`scale_by_zoom_linesearch`."""

    max_linesearch_steps: int
    hyper: dict[str, Hyper | None]
    initial_guess_strategy: str

    def init(self, params: Params) -> ScaleByZoomLinesearchState:
        column, spec = tree.flatten(params)
        grad = tree.unflatten(spec, [p if p is None else torch.zeros_like(p) for p in column])
        one, infinite = first_scalar(params, 1.0), [first_scalar(params, torch.inf) for _ in range(3)]
        count = torch.zeros((), dtype=torch.int64, device=one.device)
        return ScaleByZoomLinesearchState(count_from_zero(params), one, infinite[0], grad, count, *infinite[1:])

    def __call__(
        self,
        updates: Updates,
        state: State,
        params: Params | None = None,
        *,
        inplace: bool = False,
        value: Any = None,
        grad: Updates | None = None,
        value_fn: Callable[..., Tensor] | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByZoomLinesearchState]:
        check_state(NAME, ScaleByZoomLinesearchState, state)
        line, places = line_of(NAME, updates, params, {"value": value, "grad": grad, "value_fn": value_fn}, **extra)
        step = as_step_number(state.step)
        hyper = {name: None if h is None else resolve(h, step) for name, h in self.hyper.items()}
        one = torch.ones_like(line.start.value)
        first = as_scalar(state.lr) if self.initial_guess_strategy == "keep" else one
        now = search(line, first, hyper, self.max_linesearch_steps)
        is_safer = ~now.is_met & ((now.safe.lr > 0) | now.decrease_error.isinf())
        found = ops.select_tree(tracing.read_bool(is_safer), now.safe, now.last)
        numbers = (found.lr, found.value, now.steps, now.decrease_error, now.curvature_error)
        kept = (state.lr, state.value, state.num_linesearch_steps, state.decrease_error, state.curvature_error)
        lr, value, *info = [x.to(old) for x, old in zip(numbers, kept)]
        after = with_leaves(state.grad, found.grad, places)
        return scaled(updates, found.lr, places), ScaleByZoomLinesearchState(state.step + 1, lr, value, after, *info)

    def description(self) -> Description:
        return Description(
            NAME,
            {
                "max_linesearch_steps": self.max_linesearch_steps,
                **self.hyper,
                "initial_guess_strategy": self.initial_guess_strategy,
            },
        )


@factory
def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_lr: Hyper | None = None,
    tol: NonNegative = 0.0,
    increase_factor: AtLeastOne = 2.0,
    slope_rtol: NonNegative = 1e-4,
    curv_rtol: NonNegative = 0.9,
    approx_dec_rtol: Hyper | None = 1e-6,
    stepsize_precision: NonNegative = 1e-5,
    initial_guess_strategy: str = "keep",
) -> GradientTransformation:
    r"""Scale updates by a learning rate that meets the strong Wolfe conditions.

    .. math::
        f(\theta + \eta u) \le f(\theta) + \eta c_1 \langle u, \nabla f(\theta) \rangle + \epsilon, \qquad
        \lvert \langle u, \nabla f(\theta + \eta u) \rangle \rvert \le
            c_2 \lvert \langle u, \nabla f(\theta) \rangle \rvert + \epsilon

    :math:`\eta` grows until an interval must hold such a point; the interval is then narrowed by the minima of cubics
    and parabolas through its ends. Near a minimum, where values differ by rounding only, the first condition may be
    met by slopes. If no trial meets both, the lowest that meets the first is taken, or else the last; where no value
    was finite, :math:`\eta` is 0.

    Its update takes the function: ``update(updates, state, params, value=value, grad=grad, value_fn=f)``, with
    ``value = f(params)`` and its gradient. The updates before it must lead downwards. Further arguments of ``update``
    that ``f`` names, such as a batch, are given to it.

    Args:
        max_linesearch_steps: the most evaluations of the function and its gradient, at least 1.
        max_lr: greatest :math:`\eta`, above 0; ``None`` for no limit.
        tol: :math:`\epsilon \ge 0`.
        increase_factor: by what :math:`\eta` grows, at least 1.
        slope_rtol: :math:`c_1 \ge 0`.
        curv_rtol: :math:`c_2 \ge 0`; infinite for the first condition alone.
        approx_dec_rtol: values that differ by less than this part, at least 0, are compared by slopes; ``None`` for
            never.
        stepsize_precision: an interval no longer than this, at least 0, is not narrowed.
        initial_guess_strategy: ``"keep"`` begins with the last :math:`\eta`, ``"one"`` with 1.

    Returns:
        A transformation with state :class:`ScaleByZoomLinesearchState`, from which :func:`value_and_grad_from_state`
        spares the next evaluation.

    Raises:
        ValueError, TypeError: an argument is out of range; at ``update``, no ``params``, ``value``, ``grad`` or
            ``value_fn``, or a function that does not return a 0-d tensor.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.5 and 3.6. Hager and Zhang, Algorithm 851:
        CG_DESCENT, a conjugate gradient method with guaranteed descent, 2006.

    As Optax's, whose ``learning_rate`` and ``max_learning_rate`` are ``lr`` and ``max_lr``. Under ``torch.compile`` and
    ``torch.func`` transforms all ``max_linesearch_steps`` evaluations are made.

    >>> import torch, optimfx as fx
    >>> search = fx.scale_by_zoom_linesearch(20, initial_guess_strategy="one")
    >>> tx = fx.chain(fx.scale_by_lbfgs(), fx.scale(-1.0), search)
    >>> def rosenbrock(p):
    ...     return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2
    >>> params = {"x": torch.tensor(-1.2, dtype=torch.float64), "y": torch.tensor(1.0, dtype=torch.float64)}
    >>> state, value_and_grad = tx.init(params), fx.value_and_grad_from_state(rosenbrock)
    >>> for _ in range(40):
    ...     value, grad = value_and_grad(params, state=state)
    ...     params, state = fx.step(tx, grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
    >>> params
    {'x': tensor(1., dtype=torch.float64), 'y': tensor(1., dtype=torch.float64)}
    """
    check_count(AT_LEAST_ONE, max_linesearch_steps=max_linesearch_steps)
    if max_lr is not None:
        check_hyper(POSITIVE, max_lr=max_lr)
    if approx_dec_rtol is not None:
        check_hyper(NON_NEGATIVE, approx_dec_rtol=approx_dec_rtol)
    if initial_guess_strategy not in ("keep", "one"):
        raise ValueError(f"initial_guess_strategy must be 'keep' or 'one'; got {initial_guess_strategy!r}.")
    hyper: dict[str, Hyper | None] = {"max_lr": max_lr, "tol": tol, "increase_factor": increase_factor}
    hyper |= {"slope_rtol": slope_rtol, "curv_rtol": curv_rtol, "approx_dec_rtol": approx_dec_rtol}
    hyper["stepsize_precision"] = stepsize_precision
    update = ZoomLinesearch(max_linesearch_steps, hyper, initial_guess_strategy)
    return GradientTransformation(update.init, update)
