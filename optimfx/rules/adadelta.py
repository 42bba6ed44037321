"""Adadelta. Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Decay, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class AdadeltaState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    square_avg: PyTree  # like the parameters: average of the squared gradient
    acc_delta: PyTree  # like the parameters: average of the squared step


class Scalars(NamedTuple):
    lr: Scalar
    rho: Scalar
    weight: Scalar  # 1 - rho
    eps: Scalar
    weight_decay: Scalar | None


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(step: Scalar, lr: Scalar, rho: Scalar, eps: Scalar, weight_decay: Scalar) -> Scalars:
    return Scalars(lr, rho, 1 - rho, eps, ops.unless_zero(weight_decay))


def leaf(
    base: Array, param: Array, grad: Array, square_avg: Array, acc_delta: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    square_avg = ops.addcmul(square_avg * s.rho, grad, grad, value=s.weight)
    delta = ops.sqrt(acc_delta + s.eps) / ops.sqrt(square_avg + s.eps) * grad
    acc_delta = ops.addcmul(acc_delta * s.rho, delta, delta, value=s.weight)
    return ops.add(base, delta, alpha=-s.lr), square_avg, acc_delta


ADADELTA = Rule(leaf, scalars, init, AdadeltaState, reads_param=lambda s: s.weight_decay is not None)


@factory
def adadelta(
    lr: NonNegative = 1.0,
    rho: Decay = 0.9,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adadelta: steps in the units of past steps.

    .. math::
        v_t &= \rho v_{t-1} + (1 - \rho) g_t^2, \qquad
            \Delta_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} \, g_t \\
        u_t &= \rho u_{t-1} + (1 - \rho) \Delta_t^2, \qquad \theta_t = \theta_{t-1} - \gamma \Delta_t

    Args:
        lr: :math:`\gamma \ge 0`, dimensionless: the steps scale themselves.
        rho: decay :math:`\rho` of both averages, in [0, 1).
        eps: :math:`\epsilon \ge 0`, under both roots: it sets the size of the first steps.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.

    Returns:
        A transformation with state :class:`AdadeltaState`: ``step``, ``square_avg`` and ``acc_delta`` (like the
        parameters).

    References:
        Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012.

    Differs from Optax, whose default ``learning_rate`` is ``None``: no scaling, and no sign.

    >>> import torch, optimfx as fx
    >>> tx = fx.adadelta(rho=0.75, eps=1e-2)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([4.0, -40.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1998,  0.2000])
    """
    hyper = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
    return transformation("adadelta", ADADELTA, maximize=maximize, state_dtype=state_dtype, **hyper)
