"""Bounds on the updates."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, NonNegative, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.transforms.scale import SCALE


class Scalars(NamedTuple):
    low: Scalar
    high: Scalar


def scalars(step: Scalar | None, clip_value: Scalar) -> Scalars:
    return Scalars(-clip_value, clip_value)


def leaf(base: Array, param: Array, update: Array, s: Scalars) -> tuple[Array]:
    return (ops.add(base, ops.clamp(update, s.low, s.high)),)


CLIP = Rule(leaf, scalars, sparse=lambda s: True)


@factory
def clip_by_value(clip_value: NonNegative) -> GradientTransformation:
    """Limit every element of the updates to ``[-clip_value, clip_value]``.

    Args:
        clip_value: the bound, at least 0, in gradient units. Of a complex number, each part is limited.

    Returns:
        A transformation without state (a step count, when ``clip_value`` is a schedule).

    Raises:
        ValueError, TypeError: ``clip_value`` is negative or not a scalar.

    Optax calls it ``clip``, torch ``nn.utils.clip_grad_value_``.

    >>> import torch, optimfx as fx
    >>> tx = fx.clip_by_value(1.0)
    >>> tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([ 0.5000, -1.0000])}
    """
    return transformation("clip_by_value", CLIP, clip_value=clip_value)


class Shrink(NamedTuple):
    factor: Scalar | None  # None where the norm is known to be within the bound


def shrinking(size: Scalar, most: Scalar) -> Shrink:
    """Return what brings updates of this size to the greatest that they may have; also where both are 0."""
    within = size <= most
    if within is True:
        return Shrink(None)
    # Keep the branch that is not chosen finite, or its derivative becomes NaN.
    return Shrink(ops.where(within, 1, most / ops.where(within, 1, size)))


def norm_scalars(step: Scalar | None, max_norm: Scalar, global_norm: Scalar) -> Shrink:
    return shrinking(global_norm, max_norm)


def shrink(base: Array, param: Array, update: Array, s: Shrink) -> tuple[Array]:
    if s.factor is None:
        return (update if base is None else ops.add(base, update),)
    scaled: tuple[Array] = SCALE.leaf(base, param, update, s)
    return scaled


CLIP_NORM = Rule(shrink, norm_scalars, needs_global_norm=True, sparse=lambda s: True)


@factory
def clip_by_global_norm(max_norm: NonNegative) -> GradientTransformation:
    r"""Shrink the updates, all by one factor, to a global 2-norm of at most ``max_norm``.

    .. math::
        u \to u \, \min(1, c / \lVert u \rVert_2)

    Args:
        max_norm: :math:`c \ge 0`, in gradient units. The norm runs over all leaves of the tree (see
            :func:`~optimfx.global_norm`).

    Returns:
        A transformation without state (a step count, when ``max_norm`` is a schedule).

    Raises:
        ValueError, TypeError: ``max_norm`` is negative or not a scalar.

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, 2013.

    As Optax's; ``torch.nn.utils.clip_grad_norm_`` divides by the norm plus 1e-6.

    >>> import torch, optimfx as fx
    >>> tx = fx.clip_by_global_norm(1.0)
    >>> tx.update({"w": torch.tensor([3.0, 4.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([0.6000, 0.8000])}
    """
    return transformation("clip_by_global_norm", CLIP_NORM, max_norm=max_norm)
