"""Updates of one size."""

from __future__ import annotations

from optimfx.core import GradientTransformation, NonNegative, Real, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.transforms.scale import SCALE, Scale


def scalars(step: Scalar | None, scale_factor: Scalar, eps: Scalar, global_norm: Scalar) -> Scale:
    return Scale(scale_factor / (global_norm + eps))


NORMALIZE = Rule(SCALE.leaf, scalars, needs_global_norm=True, sparse=lambda s: True)


@factory
def normalize_by_update_norm(scale_factor: Real = 1.0, eps: NonNegative = 1e-6) -> GradientTransformation:
    r"""Scale the updates, all by one factor, to a global 2-norm of ``scale_factor``.

    .. math::
        u \to \alpha \, \frac{u}{\lVert u \rVert_2 + \epsilon}

    Args:
        scale_factor: :math:`\alpha`, the norm of the result.
        eps: :math:`\epsilon \ge 0`, added to the norm, in gradient units.

    Returns:
        A transformation without state (a step count, when an argument is a schedule).

    Raises:
        ValueError, TypeError: ``eps`` is negative, or an argument is not a scalar.

    >>> import torch, optimfx as fx
    >>> tx = fx.normalize_by_update_norm(eps=0.0)
    >>> tx.update({"w": torch.tensor([3.0, 4.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([0.6000, 0.8000])}
    """
    return transformation("normalize_by_update_norm", NORMALIZE, scale_factor=scale_factor, eps=eps)


def normalize() -> GradientTransformation:
    r"""Divide the updates, all by one number, by their global 2-norm: for sharpness-aware minimization.

    Returns:
        A transformation without state.

    >>> import torch, optimfx as fx
    >>> tx = fx.normalize()
    >>> tx.update({"w": torch.tensor([3.0, 4.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([0.6000, 0.8000])}
    """
    return normalize_by_update_norm(eps=0.0)
