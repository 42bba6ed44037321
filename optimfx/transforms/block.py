"""Updates beside the size of their leaf, or of its parameter."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Locality, NonNegative, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.transforms.clip import shrink, shrinking


class Threshold(NamedTuple):
    threshold: Scalar


class Least(NamedTuple):
    min_scale: Scalar


def threshold_scalars(step: Scalar | None, threshold: Scalar) -> Threshold:
    return Threshold(threshold)


def least_scalars(step: Scalar | None, min_scale: Scalar) -> Least:
    return Least(min_scale)


def clip_leaf(base: Array, param: Array, update: Array, s: Threshold) -> tuple[Array]:
    return shrink(base, param, update, shrinking(ops.rms(update), s.threshold))


def norm_leaf(base: Array, param: Array, update: Array, s: Least) -> tuple[Array]:
    return (ops.add(base, update, alpha=ops.maximum(ops.norm(param), s.min_scale)),)


def rms_leaf(base: Array, param: Array, update: Array, s: Least) -> tuple[Array]:
    return (ops.add(base, update, alpha=ops.maximum(ops.rms(param), s.min_scale)),)


CLIP_RMS = Rule(clip_leaf, threshold_scalars, locality=Locality.TENSOR)
PARAM_NORM = Rule(norm_leaf, least_scalars, reads_param=lambda s: True, locality=Locality.NORM)
PARAM_RMS = Rule(rms_leaf, least_scalars, reads_param=lambda s: True, locality=Locality.TENSOR)


@factory
def clip_by_block_rms(threshold: NonNegative) -> GradientTransformation:
    r"""Shrink each leaf of the updates to a root mean square of at most ``threshold``.

    .. math::
        u \to u \, \min(1, d / \operatorname{RMS}(u))

    Args:
        threshold: :math:`d \ge 0`, in update units. Of a complex leaf, the mean is over the parts of its numbers.

    Returns:
        A transformation without state (a step count, when ``threshold`` is a schedule).

    Raises:
        ValueError, TypeError: ``threshold`` is negative or not a scalar.

    References:
        Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018.

    >>> import torch, optimfx as fx
    >>> tx = fx.clip_by_block_rms(1.0)
    >>> tx.update({"w": torch.tensor([2.0, -2.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([ 1., -1.])}
    """
    return transformation("clip_by_block_rms", CLIP_RMS, threshold=threshold)


@factory
def scale_by_param_block_norm(min_scale: NonNegative = 1e-3) -> GradientTransformation:
    r"""Scale each leaf of the updates by the norm of its parameter.

    .. math::
        u \to u \, \max(\lVert \theta \rVert_2, c)

    Args:
        min_scale: :math:`c \ge 0`, the least norm, in parameter units.

    Returns:
        A transformation without state (a step count, when ``min_scale`` is a schedule).

    Raises:
        ValueError, TypeError: ``min_scale`` is negative or not a scalar; at ``update``, no ``params``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_param_block_norm(), {"w": torch.tensor([3.0, 4.0])}
    >>> tx.update({"w": torch.tensor([1.0, -1.0])}, tx.init(params), params)[0]
    {'w': tensor([ 5., -5.])}
    """
    return transformation("scale_by_param_block_norm", PARAM_NORM, min_scale=min_scale)


@factory
def scale_by_param_block_rms(min_scale: NonNegative = 1e-3) -> GradientTransformation:
    r"""Scale each leaf of the updates by the root mean square of its parameter.

    .. math::
        u \to u \, \max(\operatorname{RMS}(\theta), c)

    Args:
        min_scale: :math:`c \ge 0`, the least root mean square, in parameter units. Of a complex leaf, the mean is over
            the parts of its numbers.

    Returns:
        A transformation without state (a step count, when ``min_scale`` is a schedule).

    Raises:
        ValueError, TypeError: ``min_scale`` is negative or not a scalar; at ``update``, no ``params``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_param_block_rms(), {"w": torch.tensor([3.0, -3.0])}
    >>> tx.update({"w": torch.tensor([1.0, 2.0])}, tx.init(params), params)[0]
    {'w': tensor([3.0000, 6.0000])}
    """
    return transformation("scale_by_param_block_rms", PARAM_RMS, min_scale=min_scale)
