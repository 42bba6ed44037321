"""Distance over gradients, leaf by leaf."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    DType,
    GradientTransformation,
    Hyper,
    Locality,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    factory,
)
from optimfx.core.ranges import Positive
from optimfx.execution import transformation


class DistanceOverGradientsState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    max_dist: PyTree  # shape=() per leaf: its greatest distance from where it began
    grad_sum_of_squares: PyTree  # shape=() per leaf: sum of the squared norms of its gradients
    init_params: PyTree  # like the parameters: where they began


class Scalars(NamedTuple):
    eps: Scalar
    global_scale: Scalar


def init(param: Array, reps_rel: Hyper) -> tuple[Array, Array, Array]:
    least = (1 + ops.norm_tensor(param)) * ops.initial(reps_rel)
    return least, ops.zeros(param, ()), param.clone()


def scalars(step: Scalar, eps: Scalar, global_scale: Scalar) -> Scalars:
    return Scalars(eps, global_scale)


def leaf(
    base: Array, param: Array, grad: Array, max_dist: Array, grad_sum_of_squares: Array, init_params: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    max_dist = ops.maximum(max_dist, ops.norm_tensor(param - init_params))
    grad_sum_of_squares = grad_sum_of_squares + ops.norm_tensor(grad) ** 2
    size = max_dist * s.global_scale / ops.sqrt(grad_sum_of_squares + s.eps)
    return ops.add(base, grad * size), max_dist, grad_sum_of_squares, init_params


DISTANCE_OVER_GRADIENTS = Rule(
    leaf, scalars, init, DistanceOverGradientsState, reads_param=lambda s: True, locality=Locality.TENSOR
)


@factory
def scale_by_distance_over_gradients(
    reps_rel: NonNegative = 1e-6,
    eps: Positive = 1e-8,
    global_scale: NonNegative = 1.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Scale each leaf's update by how far it has come over its gradients: :func:`~optimfx.scale_by_dog` by leaves.

    .. math::
        g \to c \, g \, \frac{\max(r (1 + \lVert \theta_0 \rVert), \,
            \max_{s \le t} \lVert \theta_{s-1} - \theta_0 \rVert)}{\sqrt{\sum_{s \le t} \lVert g_s \rVert^2 + \epsilon}}

    Args:
        reps_rel: :math:`r \ge 0`, the least distance, relative to the norm at the start.
        eps: :math:`\epsilon > 0`, added to the sum of squares.
        global_scale: :math:`c \ge 0`, a factor of all steps.

    Returns:
        A transformation with state :class:`DistanceOverGradientsState`.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_distance_over_gradients(reps_rel=0.5), {"w": torch.tensor([3.0])}
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init(params), params)[0]
    {'w': tensor([2.])}
    """
    return transformation(
        "scale_by_distance_over_gradients",
        DISTANCE_OVER_GRADIENTS,
        state_dtype=state_dtype,
        reps_rel=reps_rel,
        eps=eps,
        global_scale=global_scale,
    )
