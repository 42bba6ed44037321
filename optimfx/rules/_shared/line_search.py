"""How far to go along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import Array, Scalar

C1 = 1e-4
"""Constant of the sufficient decrease (Armijo): how much of the first slope the value must have fallen by."""
C2 = 0.9
"""Constant of the curvature condition: how much of the first slope may be left."""


class Trial(NamedTuple):
    """A point on the line."""

    t: Scalar  # step along the direction
    value: Scalar
    grad: Any  # gradient of the function, shape=(n,)
    slope: Scalar  # derivative along the direction


def strong_wolfe(
    at: Callable[[Scalar], Trial],
    start: Trial,
    t: Scalar,
    length: Scalar,
    tolerance_change: Scalar,
    max_trials: int,
) -> tuple[Trial, int]:
    r"""Search a trial that meets the strong Wolfe conditions; return it, and the number of evaluations that it took.

    .. math::
        f(t) \le f(0) + c_1 t f'(0), \qquad \lvert f'(t) \rvert \le c_2 \lvert f'(0) \rvert

    First steps grow until they bracket such a point, then the bracket is narrowed; both by the minimum of the cubic
    through two trials, or to its half where the function is not finite. Branches on the values: for plain tensors, not
    for ``torch.func`` transforms.

    Args:
        at: evaluates the function on the line.
        start: the trial at ``t = 0``, with a negative slope.
        t: how far to go first.
        length: the largest element of the direction.
        tolerance_change: the change of a parameter below which a bracket is not narrowed.
        max_trials: the most evaluations after the first.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.5 and 3.6.
    """

    def too_high(trial: Trial) -> bool:
        return not trial.value <= start.value + C1 * trial.t * start.slope  # nan is

    def flat(trial: Trial) -> Array:
        return ops.abs(trial.slope) <= -C2 * start.slope

    before, trial, trials = start, at(t), 0
    while trials < max_trials:
        if too_high(trial) or (trials > 1 and trial.value >= before.value):
            bracket = [before, trial]
            break
        if flat(trial):
            return trial, trials + 1
        if trial.slope >= 0:
            bracket = [before, trial]
            break
        near, far = trial.t + 0.01 * (trial.t - before.t), trial.t * 10
        before, trial = trial, at(cubic_minimum(before, trial, near, far))
        trials += 1
    else:
        bracket = [start, trial]

    low = _lower(bracket)
    close_to_an_end = False
    while trials < max_trials and not ops.abs(bracket[1].t - bracket[0].t) * length < tolerance_change:
        left, right = sorted(trial.t for trial in bracket)
        t = cubic_minimum(bracket[0], bracket[1], left, right)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            if close_to_an_end or t >= right or t <= left:
                t = right - margin if ops.abs(t - right) < ops.abs(t - left) else left + margin
                close_to_an_end = False
            else:
                close_to_an_end = True
        else:
            close_to_an_end = False
        trial = at(t)
        trials += 1
        high = 1 - low
        if too_high(trial) or trial.value >= bracket[low].value:
            bracket[high] = trial
            low = _lower(bracket)
            continue
        if flat(trial):
            return trial, trials + 1
        if trial.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = trial
    return bracket[low], trials + 1


def cubic_minimum(a: Trial, b: Trial, low: Array, high: Array) -> Array:
    """Where the cubic through two trials and their slopes is least, limited to an interval; its middle if nowhere."""
    left, right = (a, b) if a.t <= b.t else (b, a)
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    if 0 <= square < float("inf"):
        d2 = ops.sqrt(square)
        width = right.slope - left.slope + 2 * d2
        if width != 0:
            t = right.t - (right.t - left.t) * ((right.slope + d2 - d1) / width)
            return min(max(t, low), high)
    return (low + high) / 2


def _lower(bracket: list[Trial]) -> int:
    return 1 if bracket[1].value < bracket[0].value else 0
