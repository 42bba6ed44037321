"""Polyak's step size: from the value of the loss."""

from __future__ import annotations

import sys

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import GradientTransformation, NonNegative, Real, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.rules.sgd import sgd
from optimfx.transforms.scale import SCALE, Scale

VARIANTS = ("sps", "sps+")


def scalars(
    step: Scalar | None,
    f_min: Scalar,
    max_lr: Scalar,
    eps: Scalar,
    variant: str,
    global_norm: Scalar,
    value: Scalar,
) -> Scale:
    gap = value - f_min
    if variant == "sps+":
        gap = ops.maximum(gap, 0)
    squared = global_norm * global_norm + eps
    is_small = squared <= sys.float_info.epsilon
    size = ops.minimum(gap / ops.where(is_small, 1, squared), max_lr)
    return Scale(ops.where(is_small, 0, size))


POLYAK = Rule(SCALE.leaf, scalars, needs_global_norm=True, extra=("value",), sparse=lambda s: True)


@factory
def scale_by_polyak(
    f_min: Real = 0.0, max_lr: NonNegative = 1.0, eps: NonNegative = 0.0, variant: str = "sps"
) -> GradientTransformation:
    r"""Scale updates by Polyak's step size, with which a convex function would come to its least value.

    .. math::
        u \to u \, \min\left(\frac{f(\theta) - f^*}{\lVert u \rVert^2 + \epsilon}, \, \gamma\right)

    Call it with the value of the loss: ``update(grads, state, params, value=loss)``.

    Args:
        f_min: :math:`f^*`, the least value of the loss, or a lower bound of it.
        max_lr: :math:`\gamma \ge 0`, the greatest step size.
        eps: :math:`\epsilon \ge 0`, added to the squared norm; a sum that is 0 in float64 gives a step of 0.
        variant: ``"sps"``, or ``"sps+"``, which takes a loss below ``f_min`` for ``f_min``.

    Returns:
        A transformation without state (a step count, when an argument is a schedule).

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``value``.

    References:
        Loizou et al., Stochastic Polyak Step-size for SGD, 2021. Berrada, Zisserman and Kumar, Training Neural Networks
        for and by Interpolation, 2020.

    As Optax's, whose ``max_learning_rate`` is ``max_lr``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_polyak(), {"w": torch.tensor([2.0])}
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init(params), params, value=4.0)[0]
    {'w': tensor([1.])}
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}; got {variant!r}.")
    return transformation("scale_by_polyak", POLYAK, f_min=f_min, max_lr=max_lr, eps=eps, variant=variant)


def polyak_sgd(
    max_lr: NonNegative = 1.0,
    scaling: NonNegative = 1.0,
    f_min: Real = 0.0,
    eps: NonNegative = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    r"""SGD with Polyak's step size: :func:`~optimfx.sgd`, then :func:`~optimfx.scale_by_polyak`.

    Args:
        max_lr: greatest step size :math:`\ge 0`.
        scaling: :math:`\ge 0`, a factor of the gradients, also as a schedule.
        f_min: the least value of the loss, or a lower bound of it.
        eps: :math:`\ge 0`, added to the squared norm.
        variant: ``"sps"``, or ``"sps+"``, which takes a loss below ``f_min`` for ``f_min``.

    Returns:
        A transformation with the states of its two links. Call it with the value of the loss.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``value``.

    References:
        Loizou et al., Stochastic Polyak Step-size for SGD, 2021.

    As Optax's, whose ``max_learning_rate`` is ``max_lr``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.polyak_sgd(), {"w": torch.tensor([2.0])}
    >>> fx.step(tx, {"w": torch.tensor([4.0])}, tx.init(params), params, value=4.0)[0]
    {'w': tensor([1.])}
    """
    return chain(sgd(lr=scaling), scale_by_polyak(f_min, max_lr, eps, variant))
