"""A second moment in the memory of rows and columns: Adafactor's, as a link."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    DType,
    GradientTransformation,
    Locality,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    check_count,
    factory,
)
from optimfx.execution import transformation


class FactoredState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    v_row: PyTree  # like the parameter, but 1 in its largest dimension: second moment of each row; else ()
    v_col: PyTree  # the same for its second largest dimension; else ()
    v: PyTree  # like the parameter, where it is not factored: second moment; else ()


class Scalars(NamedTuple):
    weight: Scalar  # of a new square
    eps: Scalar


def unsupported_reason(param: Array) -> str | None:
    return "scale_by_factored_rms factors the second moment of real tensors" if param.is_complex() else None


def factored_dims(shape: tuple[int, ...], least: int) -> tuple[int, int] | None:
    """Choose the two largest dimensions, the smaller one first; ``None`` if that is shorter than ``least``."""
    if len(shape) < 2:
        return None
    *_, second, first = sorted(range(len(shape)), key=lambda dim: shape[dim])
    return (second, first) if shape[second] >= least else None


def init(param: Array, factored: bool, min_dim_size_to_factor: int) -> tuple[Array, Array, Array]:
    dims = factored_dims(param.shape, min_dim_size_to_factor) if factored else None
    if dims is None:
        return None, None, ops.zeros_like(param)
    second, first = dims
    shapes = [tuple([1 if dim == gone else n for dim, n in enumerate(param.shape)]) for gone in (first, second)]
    return ops.zeros(param, shapes[0]), ops.zeros(param, shapes[1]), None


def scalars(step: Scalar, decay_rate: Scalar, step_offset: Scalar, eps: Scalar) -> Scalars:
    return Scalars((step - step_offset) ** -decay_rate, eps)


def leaf(
    base: Array, param: Array, grad: Array, v_row: Array, v_col: Array, v: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    square = grad * grad + s.eps
    if v is not None:
        v = ops.lerp(v, square, s.weight)
        return ops.add(base, grad * ops.rsqrt(v)), v_row, v_col, v
    second, first = factored_dims(grad.shape, 0) or (0, 1)
    v_row = ops.lerp(v_row, ops.mean(square, first), s.weight)
    v_col = ops.lerp(v_col, ops.mean(square, second), s.weight)
    scale = ops.rsqrt(v_row / ops.mean(v_row, second)) * ops.rsqrt(v_col)
    return ops.add(base, grad * scale), v_row, v_col, v


FACTORED_RMS = Rule(leaf, scalars, init, FactoredState, locality=Locality.TENSOR, unsupported_reason=unsupported_reason)


@factory
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: NonNegative = 0.8,
    step_offset: NonNegative = 0,
    min_dim_size_to_factor: int = 128,
    eps: NonNegative = 1e-30,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Divide gradients by the root of a second moment that is kept for rows and columns only.

    .. math::
        R_t &= \rho_t R_{t-1} + (1 - \rho_t) \operatorname{mean}_j(g_t^2 + \epsilon), \qquad
            C_t = \rho_t C_{t-1} + (1 - \rho_t) \operatorname{mean}_i(g_t^2 + \epsilon), \qquad
            \rho_t = 1 - (t - t_0)^{-\kappa} \\
        g_t &\to g_t \Big/ \sqrt{R_t C_t / \operatorname{mean}(R_t)}

    Args:
        factored: whether to factor at all.
        decay_rate: :math:`\kappa \ge 0`, how the decay comes near 1.
        step_offset: :math:`t_0 \ge 0`, the step at which the count of the decay began, as in fine-tuning.
        min_dim_size_to_factor: the least size, at least 1, of the second largest dimension of a leaf that is factored.
        eps: :math:`\epsilon \ge 0`, added to the squared gradient.

    Returns:
        A transformation with state :class:`FactoredState`.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``init``, a leaf is complex.

    References:
        Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018.

    As Optax's, whose ``epsilon`` is ``eps``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_factored_rms(min_dim_size_to_factor=1), {"w": torch.zeros(2, 3)}
    >>> tx.update({"w": torch.tensor([[1.0, 1.0, 2.0], [3.0, 3.0, 6.0]])}, tx.init(params))[0]["w"]
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    check_count(AT_LEAST_ONE, min_dim_size_to_factor=min_dim_size_to_factor)
    return transformation(
        "scale_by_factored_rms",
        FACTORED_RMS,
        state_dtype=state_dtype,
        factored=factored,
        decay_rate=decay_rate,
        step_offset=step_offset,
        min_dim_size_to_factor=min_dim_size_to_factor,
        eps=eps,
    )
