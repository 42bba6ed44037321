"""RMSprop. Hinton, Neural Networks for Machine Learning, lecture 6e, 2012."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Decay,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation


class RMSpropState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    square_avg: PyTree  # like the parameters: average of the squared gradient
    grad_avg: PyTree  # like the parameters: average of the gradient; () unless centered
    momentum_buffer: PyTree  # like the parameters; () without momentum


class Scalars(NamedTuple):
    lr: Scalar
    alpha: Scalar
    weight: Scalar  # 1 - alpha
    eps: Scalar
    eps_root: Scalar | None
    weight_decay: Scalar | None
    momentum: Scalar


def init(param: Array, centered: bool, momentum: Hyper) -> tuple[Array, Array, Array]:
    return (
        ops.zeros_like(param),
        ops.zeros_like(param) if centered else None,
        None if ops.is_zero(momentum) else ops.zeros_like(param),
    )


def scalars(
    step: Scalar, lr: Scalar, alpha: Scalar, eps: Scalar, eps_root: Scalar, weight_decay: Scalar, momentum: Scalar
) -> Scalars:
    return Scalars(lr, alpha, 1 - alpha, eps, ops.unless_zero(eps_root), ops.unless_zero(weight_decay), momentum)


def leaf(
    base: Array, param: Array, grad: Array, square_avg: Array, grad_avg: Array, momentum_buffer: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    square_avg = ops.addcmul(square_avg * s.alpha, grad, grad, value=s.weight)
    variance = square_avg
    if grad_avg is not None:
        grad_avg = ops.lerp(grad_avg, grad, s.weight)
        variance = ops.addcmul(square_avg, grad_avg, grad_avg, value=-1)
    if s.eps_root is not None:
        variance = variance + s.eps_root
    denom = ops.sqrt(variance) + s.eps
    if momentum_buffer is None:
        return ops.addcdiv(base, grad, denom, value=-s.lr), square_avg, grad_avg, None
    momentum_buffer = ops.addcdiv(momentum_buffer * s.momentum, grad, denom)
    return ops.add(base, momentum_buffer, alpha=-s.lr), square_avg, grad_avg, momentum_buffer


RMSPROP = Rule(leaf, scalars, init, RMSpropState, reads_param=lambda s: s.weight_decay is not None)


@factory
def rmsprop(
    lr: NonNegative = 1e-2,
    alpha: Decay = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum: NonNegative = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 0.0,
) -> GradientTransformation:
    r"""RMSprop: steps scaled by a running average of the squared gradient.

    .. math::
        v_t &= \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad \bar g_t = \alpha \bar g_{t-1} + (1 - \alpha) g_t \\
        s_t &= \sqrt{v_t + \epsilon_{\text{root}}} + \epsilon \quad\text{or, centered,}\quad
            \sqrt{v_t - \bar g_t^2 + \epsilon_{\text{root}}} + \epsilon \\
        b_t &= \mu b_{t-1} + g_t / s_t, \qquad \theta_t = \theta_{t-1} - \gamma b_t

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        alpha: decay :math:`\alpha` of the averages, in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.
        momentum: decay :math:`\mu \ge 0` of the buffer of scaled gradients; 0 keeps none.
        centered: divide by the standard deviation: the squared average of the gradient is subtracted from :math:`v_t`.

    Returns:
        A transformation with state :class:`RMSpropState`: ``step``, ``square_avg``, ``grad_avg`` (``()`` unless
        ``centered``), ``momentum_buffer`` (``()`` without momentum), each like the parameters.

    References:
        Hinton, Neural Networks for Machine Learning, lecture 6e, 2012. Graves, Generating Sequences With Recurrent
        Neural Networks, 2013 (``centered``).

    Differs from Optax: ``alpha`` is its ``decay``, and ``eps`` is outside the root; ``eps_root`` is inside.

    >>> import torch, optimfx as fx
    >>> tx = fx.rmsprop(lr=0.01)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1000, -0.1000])
    """
    return transformation(
        "rmsprop",
        RMSPROP,
        maximize=maximize,
        state_dtype=state_dtype,
        lr=lr,
        alpha=alpha,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
        momentum=momentum,
        centered=centered,
    )
