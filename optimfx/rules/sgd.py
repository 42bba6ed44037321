"""Stochastic gradient descent with momentum. Polyak, 1964; Sutskever et al., 2013."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Real,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation


class SGDState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    momentum_buffer: PyTree  # like the parameters; () without momentum


class Scalars(NamedTuple):
    lr: Scalar
    weight_decay: Scalar | None
    momentum: Scalar
    weight: Scalar  # of the new gradient in the buffer: 1 - dampening, and 1 at the first step
    nesterov: bool
    sign: bool  # of each element instead of its value


def init(param: Array, momentum: Hyper) -> tuple[Array]:
    return (None if ops.is_zero(momentum) else ops.zeros_like(param),)


def scalars(
    step: Scalar, lr: Scalar, momentum: Scalar, dampening: Scalar, weight_decay: Scalar, nesterov: bool, sign: bool
) -> Scalars:
    weight = 1 if ops.is_zero(dampening) else ops.where(step == 1, 1, 1 - dampening)
    return Scalars(lr, ops.unless_zero(weight_decay), momentum, weight, nesterov, sign)


def leaf(base: Array, param: Array, grad: Array, momentum_buffer: Array, s: Scalars) -> tuple[Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    if momentum_buffer is not None:
        momentum_buffer = ops.add(momentum_buffer * s.momentum, grad, alpha=s.weight)
        grad = ops.add(grad, momentum_buffer, alpha=s.momentum) if s.nesterov else momentum_buffer
    return ops.add(base, ops.sign(grad) if s.sign else grad, alpha=-s.lr), momentum_buffer


SGD = Rule(
    leaf,
    scalars,
    init,
    SGDState,
    reads_param=lambda s: s.weight_decay is not None,
    sparse=lambda s: s.weight_decay is None and ops.is_zero(s.momentum),
    aten="sgd",
)


@factory
def sgd(
    lr: NonNegative = 1e-3,
    momentum: NonNegative = 0.0,
    dampening: Real = 0.0,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Stochastic gradient descent, with momentum, dampening, L2 decay and Nesterov's look-ahead.

    .. math::
        g_t &\leftarrow g_t + \lambda \theta_{t-1}, \qquad b_t = \mu b_{t-1} + (1 - \tau) g_t, \qquad b_1 = g_1 \\
        \theta_t &= \theta_{t-1} - \gamma b_t \quad\text{or, with Nesterov,}\quad
            \theta_{t-1} - \gamma (g_t + \mu b_t)

    The first buffer is the first gradient itself: dampening begins with the second step. Without momentum
    :math:`b_t = g_t`; dampening plays no part.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units per gradient unit.
        momentum: decay :math:`\mu \ge 0` of the buffer; 0 keeps none.
        dampening: :math:`\tau`, the part of each later gradient that is kept out of the buffer.
        weight_decay: L2 coefficient :math:`\lambda \ge 0`, added to the gradient.
        nesterov: look ahead along the buffer; needs momentum and no dampening.

    Returns:
        A transformation with state :class:`SGDState`: ``step`` and ``momentum_buffer`` (like the parameters, ``()``
        without momentum).

    References:
        Polyak, Some methods of speeding up the convergence of iteration methods, 1964. Sutskever et al., On the
        importance of initialization and momentum in deep learning, 2013.

    Sparse gradients are taken where there is neither momentum nor decay; they touch the elements that they have.

    Differs from Optax's ``sgd`` in taking 0, not ``None``, for no momentum, and in having dampening and decay.

    >>> import torch, optimfx as fx
    >>> tx = fx.sgd(lr=0.1, momentum=0.9)
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(params, state, params)  # the gradient of |w|^2 / 2 is w
    ...     params = fx.apply_updates(params, updates)
    >>> params["w"]
    tensor([0.7200, 1.4400])
    """
    dampened = not callable(dampening) and not ops.is_zero(dampening)
    if nesterov and (ops.is_zero(momentum) or dampened):
        raise ValueError(
            f"nesterov=True needs momentum > 0 and dampening = 0; got momentum={momentum!r}, dampening={dampening!r}."
        )
    return transformation(
        "sgd",
        SGD,
        maximize=maximize,
        state_dtype=state_dtype,
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        sign=False,
    )
