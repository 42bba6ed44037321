"""A scale that falls when the loss does not."""

from __future__ import annotations

import math
from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    Array,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    check_count,
    check_hyper,
    factory,
)
from optimfx.core.validation import Interval
from optimfx.execution import transformation

FACTOR = Interval(0, 1, has_low=False)
PART = Interval(0, 1, has_high=True)


class ReduceLROnPlateauState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    scale: PyTree  # shape=() per leaf: the factor of the updates
    best_value: PyTree  # shape=() per leaf: the lowest mean loss so far
    plateau_count: PyTree  # shape=() per leaf: means since the last that was lower
    cooldown_count: PyTree  # shape=() per leaf: means until they count again
    accumulated: PyTree  # shape=() per leaf: losses in the mean
    avg_value: PyTree  # shape=() per leaf: mean of these losses


class Scalars(NamedTuple):
    scale: Scalar
    best_value: Scalar
    plateau_count: Scalar
    cooldown_count: Scalar
    accumulated: Scalar
    avg_value: Scalar


def begin() -> tuple[Scalar, ...]:
    return 1.0, math.inf, 0.0, 0.0, 0.0, 0.0


def scalars(
    step: Scalar,
    scale: Scalar,
    best_value: Scalar,
    plateau_count: Scalar,
    cooldown_count: Scalar,
    accumulated: Scalar,
    avg_value: Scalar,
    value: Scalar,
    factor: Scalar,
    patience: Scalar,
    rtol: Scalar,
    atol: Scalar,
    cooldown: Scalar,
    accumulation_size: Scalar,
    min_scale: Scalar,
) -> Scalars:
    avg_value = (accumulated * avg_value + value) / (accumulated + 1)
    improves = avg_value < (1 - rtol) * best_value - atol
    plateau = ops.where(improves, 0, plateau_count + 1)
    is_over = plateau == patience
    lower = ops.where(is_over, ops.maximum(scale * factor, min_scale), ops.maximum(scale, min_scale))
    waits = cooldown_count > 0
    judged = Scalars(
        scale=ops.where(waits, scale, lower),
        best_value=ops.where(improves, avg_value, best_value),
        plateau_count=ops.where(waits, 0, ops.where(is_over, 0, plateau)),
        cooldown_count=ops.where(waits, cooldown_count - 1, ops.where(is_over, cooldown, 0)),
        accumulated=0.0,
        avg_value=0.0,
    )
    before = Scalars(scale, best_value, plateau_count, cooldown_count, accumulated + 1, avg_value)
    chosen: Scalars = ops.select_tree(accumulated + 1 == accumulation_size, judged, before)
    return chosen


def leaf(base: Array, param: Array, update: Array, s: Scalars) -> tuple[Array]:
    return (ops.add(base, update, alpha=s.scale),)


REDUCE_ON_PLATEAU = Rule(
    leaf,
    scalars,
    state=ReduceLROnPlateauState,
    carries=ReduceLROnPlateauState._fields[1:],
    begin=begin,
    extra=("value",),
    sparse=lambda s: True,
)


@factory
def reduce_on_plateau(
    factor: Hyper = 0.1,
    patience: int = 10,
    rtol: Hyper = 1e-4,
    atol: NonNegative = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: NonNegative = 0.0,
) -> GradientTransformation:
    r"""Scale updates by a number that is multiplied by ``factor`` when the loss has not fallen for ``patience`` steps.

    .. math::
        u \to c_t u, \qquad \text{the loss falls when } \bar f < (1 - r) f_{\min} - a

    Call it with the value of the loss: ``update(grads, state, params, value=loss)``.

    Args:
        factor: of the scale, in (0, 1).
        patience: how many means in a row may be no lower, at least 0.
        rtol: :math:`r`, by which part a mean must be lower, in [0, 1].
        atol: :math:`a \ge 0`, by how much it must be lower. One of the two is positive.
        cooldown: for how many means after a reduction none is counted, at least 0.
        accumulation_size: how many losses make a mean, at least 1.
        min_scale: the least scale :math:`\ge 0`.

    Returns:
        A transformation with state :class:`ReduceLROnPlateauState`: numbers of which each leaf has its own.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``value``.

    As Optax's. torch's class is :class:`optimfx.optim.lr_scheduler.ReduceLROnPlateau`.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=1.0), fx.reduce_on_plateau(factor=0.5, patience=1))
    >>> params = {"w": torch.zeros(1)}
    >>> state = tx.init(params)
    >>> for loss in (3.0, 3.0, 2.0):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state, params, value=loss)
    ...     print(updates["w"].item())
    -1.0
    -0.5
    -0.5
    """
    check_count(NON_NEGATIVE, patience=patience, cooldown=cooldown)
    check_count(AT_LEAST_ONE, accumulation_size=accumulation_size)
    check_hyper(FACTOR, factor=factor)
    check_hyper(PART, rtol=rtol)
    if ops.is_zero(rtol) and ops.is_zero(atol):
        raise ValueError("one of rtol and atol must be positive; got 0 for both.")
    return transformation(
        "reduce_on_plateau",
        REDUCE_ON_PLATEAU,
        factor=factor,
        patience=patience,
        rtol=rtol,
        atol=atol,
        cooldown=cooldown,
        accumulation_size=accumulation_size,
        min_scale=min_scale,
    )
