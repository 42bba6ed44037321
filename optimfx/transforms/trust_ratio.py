"""Updates as large as their parameters."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Locality, NonNegative, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.rules.lars import trust_ratio


class Scalars(NamedTuple):
    trust_coefficient: Scalar
    eps: Scalar
    min_norm: Scalar


def scalars(step: Scalar | None, trust_coefficient: Scalar, eps: Scalar, min_norm: Scalar) -> Scalars:
    return Scalars(trust_coefficient, eps, min_norm)


def leaf(base: Array, param: Array, update: Array, s: Scalars) -> tuple[Array]:
    return (ops.add(base, update, alpha=trust_ratio(param, update, *s)),)


TRUST_RATIO = Rule(leaf, scalars, reads_param=lambda s: True, locality=Locality.NORM)


@factory
def scale_by_trust_ratio(
    min_norm: NonNegative = 0.0, trust_coefficient: NonNegative = 1.0, eps: NonNegative = 0.0
) -> GradientTransformation:
    r"""Scale each leaf's update to the size of its parameter: what :func:`~optimfx.lars` and :func:`~optimfx.lamb` do.

    .. math::
        u \to u \, \eta \, \frac{\lVert \theta \rVert_2}{\lVert u \rVert_2 + \epsilon}

    Where a norm is 0, the update is left as it is.

    Args:
        min_norm: the least norm, at least 0, that a parameter and an update count as.
        trust_coefficient: :math:`\eta \ge 0`.
        eps: :math:`\epsilon \ge 0`, added to the update's norm.

    Returns:
        A transformation without state (a step count, when an argument is a schedule).

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        You et al., Large Batch Training of Convolutional Networks, 2017.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_trust_ratio()
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> tx.update({"w": torch.tensor([0.0, 2.0])}, tx.init(params), params)[0]
    {'w': tensor([0., 5.])}
    """
    return transformation(
        "scale_by_trust_ratio", TRUST_RATIO, min_norm=min_norm, trust_coefficient=trust_coefficient, eps=eps
    )
