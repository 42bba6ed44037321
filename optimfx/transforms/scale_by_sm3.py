"""SM3. Anil et al., Memory-Efficient Adaptive Optimization, 2019."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import (
    Array,
    Decay,
    DType,
    GradientTransformation,
    Locality,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation
from optimfx.transforms.scale import scale_by_lr


class SM3State(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    accumulators: PyTree  # shape=(n1 + ... + nd,) for a leaf of shape (n1, ..., nd): one along each dimension
    exp_avg: PyTree  # like the parameters: average of the directions


class Scalars(NamedTuple):
    weight1: Scalar  # 1 - b1
    decay: Scalar  # b2
    weight2: Scalar  # 1 - b2, or 1 for a sum
    eps: Scalar


def unsupported_reason(param: Array) -> str | None:
    return "sm3 covers real tensors by their dimensions" if param.is_complex() else None


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros(param, (sum(param.shape) if param.dim() else 1,)), ops.zeros_like(param)


def scalars(step: Scalar, b1: Scalar, b2: Scalar, eps: Scalar) -> Scalars:
    return Scalars(1 - b1, b2, ops.where(b2 == 1, 1, 1 - b2), eps)


def leaf(
    base: Array, param: Array, grad: Array, accumulators: Array, exp_avg: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    covers = along_dimensions(accumulators, grad)
    bound = covers[0]
    for cover in covers[1:]:
        bound = ops.minimum(bound, cover)
    second = ops.add(bound * s.decay, grad * grad, alpha=s.weight2)
    safe = ops.where(second > 0, second + s.eps, 1.0)
    exp_avg = ops.lerp(exp_avg, ops.where(second > 0, grad * ops.rsqrt(safe), 0.0), s.weight1)
    return ops.add(base, exp_avg), greatest_along_dimensions(second, accumulators), exp_avg


def along_dimensions(accumulators: Array, x: Array) -> list[Array]:
    """Cut the vector into one for each dimension, shaped to be broadcast along it."""
    parts = []
    begin = 0
    for dim, size in enumerate(x.shape):
        shape = [1] * len(x.shape)
        shape[dim] = size
        parts.append(accumulators[begin : begin + size].reshape(shape))
        begin += size
    return parts


def greatest_along_dimensions(x: Array, before: Array) -> Array:
    """Take for each index of each dimension the greatest of the numbers, none of which is negative."""
    if 0 in x.shape:
        return before
    dims = range(len(x.shape))
    if len(x.shape) == 1:
        return x
    others = [tuple(other for other in dims if other != dim) for dim in dims]
    return ops.concatenate([ops.norm(x, dim=rest, ord=float("inf")).reshape(-1) for rest in others])


SM3 = Rule(leaf, scalars, init, SM3State, locality=Locality.TENSOR, unsupported_reason=unsupported_reason)


@factory
def scale_by_sm3(
    b1: Decay = 0.9, b2: NonNegative = 1.0, eps: NonNegative = 1e-8, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Divide gradients by the root of a bound of the sum of their squares, kept along each dimension only.

    .. math::
        v_t(i) = \min_d a_{t-1}^d(i_d) + g_t(i)^2, \qquad a_t^d(j) = \max_{i : i_d = j} v_t(i), \qquad
            m_t = \beta_1 m_{t-1} + (1 - \beta_1) \frac{g_t}{\sqrt{v_t + \epsilon}}

    Args:
        b1: :math:`\beta_1`, decay of the average of directions, in [0, 1).
        b2: decay of the bound, whose new term is then weighted by ``1 - b2``; 1 for a sum.
        eps: :math:`\epsilon \ge 0`, under the root, in squared gradient units.

    Returns:
        A transformation with state :class:`SM3State`: ``step``, ``accumulators`` (for a matrix of n rows and m columns,
        n + m numbers) and ``exp_avg`` (like the parameters).

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``init``, a leaf is complex.

    References:
        Anil et al., Memory-Efficient Adaptive Optimization, 2019.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_sm3(b1=0.0, eps=0.0), {"w": torch.zeros(2, 3)}
    >>> updates, state = tx.update({"w": torch.tensor([[4.0, 0.0, 2.0], [0.0, 0.0, 8.0]])}, tx.init(params))
    >>> updates["w"]
    tensor([[1., 0., 1.],
            [0., 0., 1.]])
    >>> state.accumulators["w"]
    tensor([16., 64., 16.,  0., 64.])
    """
    return transformation("scale_by_sm3", SM3, state_dtype=state_dtype, b1=b1, b2=b2, eps=eps)


@factory
def sm3(lr: NonNegative = 0.1, momentum: Decay = 0.9, *, state_dtype: DType | None = None) -> GradientTransformation:
    r"""SM3: Adagrad in the memory of its dimensions: :func:`~optimfx.scale_by_sm3`, then ``lr``.

    Args:
        lr: learning rate :math:`\ge 0`.
        momentum: decay of the average of directions, in [0, 1).

    Returns:
        A transformation with the states of its two links.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``init``, a leaf is complex.

    References:
        Anil et al., Memory-Efficient Adaptive Optimization, 2019.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.sm3(lr=0.5, momentum=0.0), {"w": torch.zeros(1, 2)}
    >>> fx.step(tx, {"w": torch.tensor([[4.0, 2.0]])}, tx.init(params), params)[0]
    {'w': tensor([[-0.5000, -0.5000]])}
    """
    return chain(scale_by_sm3(momentum, state_dtype=state_dtype), scale_by_lr(lr))
