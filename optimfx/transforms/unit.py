"""Updates of units: of what leads to one output of a layer, in the first dimension of its weight."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Locality, NonNegative, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.transforms.set_to_zero import NoScalars, no_scalars


class Scalars(NamedTuple):
    clipping: Scalar
    eps: Scalar


def dims(x: Array) -> tuple[int, ...]:
    """Return the dimensions within a unit; of a vector, the only one."""
    return tuple(range(1, x.dim())) or (0,)


def unsupported_reason(param: Array) -> str | None:
    return "the units of a complex leaf are not those of its parts" if param.is_complex() else None


def centralize_leaf(base: Array, param: Array, update: Array, s: NoScalars) -> tuple[Array]:
    centred = update - ops.mean(update, dims(update)) if update.dim() > 1 else update
    return (ops.add(base, centred),)


def clip_leaf(base: Array, param: Array, update: Array, s: Scalars) -> tuple[Array]:
    size = ops.norm(update, dims(update))
    most = ops.maximum(ops.norm(param, dims(param)), s.eps) * s.clipping
    shrunk = ops.where(size < most, update, update * (most / ops.maximum(size, LEAST)))
    return (ops.add(base, shrunk),)


LEAST = 1e-6
"""The least norm of a unit's update that is divided by."""
CENTRALIZE = Rule(centralize_leaf, no_scalars, locality=Locality.TENSOR, unsupported_reason=unsupported_reason)
CLIP = Rule(
    clip_leaf,
    lambda step, clipping, eps: Scalars(clipping, eps),
    reads_param=lambda s: True,
    locality=Locality.TENSOR,
    unsupported_reason=unsupported_reason,
)


def centralize() -> GradientTransformation:
    r"""Subtract from the updates of each unit their mean; leaves of fewer than two dimensions stay as they are.

    .. math::
        u_i \to u_i - \operatorname{mean}(u_i)

    The unit :math:`i` is an entry of the first dimension: a row of a linear layer's weight, a filter of a convolution.

    Returns:
        A transformation without state.

    Raises:
        ValueError: at ``init``, a leaf is complex.

    References:
        Yong et al., Gradient Centralization: A New Optimization Technique for Deep Neural Networks, 2020.

    >>> import torch, optimfx as fx
    >>> tx = fx.centralize()
    >>> tx.update({"w": torch.tensor([[1.0, 3.0], [5.0, 5.0]])}, tx.init({"w": torch.zeros(2, 2)}))[0]
    {'w': tensor([[-1.,  1.],
            [ 0.,  0.]])}
    """
    return transformation("centralize", CENTRALIZE)


@factory
def adaptive_grad_clip(clipping: NonNegative, eps: NonNegative = 1e-3) -> GradientTransformation:
    r"""Shrink the updates of each unit to a norm of at most a part of that of its parameters.

    .. math::
        u_i \to u_i \, \min\left(1, c \, \frac{\max(\lVert \theta_i \rVert_2, \epsilon)}{\lVert u_i \rVert_2}\right)

    The unit :math:`i` is an entry of the first dimension: a row of a linear layer's weight, a filter of a convolution;
    a leaf of fewer than two dimensions is one unit.

    Args:
        clipping: :math:`c \ge 0`, the greatest ratio of the norms; 0.01 is usual.
        eps: :math:`\epsilon \ge 0`, the least norm that parameters count as, in parameter units.

    Returns:
        A transformation without state (a step count, when an argument is a schedule).

    Raises:
        ValueError, TypeError: an argument is negative or not a scalar; at ``init``, a leaf is complex; at ``update``,
            no ``params``.

    References:
        Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, 2021.

    Optax takes the last dimension for that of the units, as JAX's layers have it.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.adaptive_grad_clip(0.1), {"w": torch.tensor([[3.0, 4.0], [6.0, 8.0]])}
    >>> tx.update({"w": torch.tensor([[0.0, 5.0], [0.0, 0.5]])}, tx.init(params), params)[0]
    {'w': tensor([[0.0000, 0.5000],
            [0.0000, 0.5000]])}
    """
    return transformation("adaptive_grad_clip", CLIP, clipping=clipping, eps=eps)
