"""Multiples of the updates."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, NonNegative, Real, Rule, Scalar, Schedule, factory
from optimfx.execution import transformation


class Scale(NamedTuple):
    factor: Scalar


def scalars(step: Scalar | None, factor: Scalar) -> Scale:
    return Scale(factor)


def lr_scalars(step: Scalar | None, lr: Scalar) -> Scale:
    return Scale(-lr)


def schedule_scalars(step: Scalar | None, schedule: Scalar) -> Scale:
    return Scale(schedule)


def leaf(base: Array, param: Array, update: Array, s: Scale) -> tuple[Array]:
    return (ops.add(base, update, alpha=s.factor),)


SCALE = Rule(leaf, scalars, sparse=lambda s: True)
SCALE_BY_LR = replace(SCALE, scalars=lr_scalars)
SCALE_BY_SCHEDULE = replace(SCALE, scalars=schedule_scalars)


@factory
def scale(factor: Real) -> GradientTransformation:
    """Multiply the updates: ``u -> factor u``.

    Args:
        factor: a number, a 0-d tensor or a schedule; -1 turns ascent into descent.

    Returns:
        A transformation without state (a step count, when ``factor`` is a schedule).

    Raises:
        ValueError, TypeError: ``factor`` is not a scalar.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale(-0.5)
    >>> tx.update({"w": torch.tensor([1.0, 2.0])}, tx.init({"w": torch.zeros(2)}))
    ({'w': tensor([-0.5000, -1.0000])}, EmptyState())
    """
    return transformation("scale", SCALE, factor=factor)


@factory
def scale_by_lr(lr: NonNegative) -> GradientTransformation:
    r"""Turn a direction into a step downhill: :math:`u \to -\gamma u`. The last link of a chain.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: a number, a 0-d tensor or a schedule.

    Returns:
        A transformation without state (a step count, when ``lr`` is a schedule).

    Raises:
        ValueError, TypeError: ``lr`` is negative or not a scalar.

    Optax calls it ``scale_by_learning_rate``.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.scale_by_rms(), fx.scale_by_lr(0.1))
    >>> updates, state = tx.update({"w": torch.tensor([1.0, -2.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([-1.0000,  1.0000])
    """
    return transformation("scale_by_lr", SCALE_BY_LR, lr=lr)


def scale_by_schedule(schedule: Schedule) -> GradientTransformation:
    """Multiply the updates by a schedule's value, sign and all: ``u -> schedule(step) u``.

    Args:
        schedule: step -> value; the first update asks for step 0.

    Returns:
        A transformation whose state is the step count.

    Raises:
        TypeError: ``schedule`` is not callable.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_schedule(lambda step: 1 / (step + 1))
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(3):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates["w"]
    tensor([0.3333])
    """
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the step; got {schedule!r}. For a constant, use scale.")
    return transformation("scale_by_schedule", SCALE_BY_SCHEDULE, schedule=schedule)
