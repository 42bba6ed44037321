"""Adamax. Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, section 7.1."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class AdamaxState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_inf: PyTree  # like the parameters: decaying maximum of the gradient's size


class Scalars(NamedTuple):
    step_size: Scalar  # lr / (1 - beta1^t)
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    eps: Scalar
    weight_decay: Scalar | None


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, weight_decay: Scalar) -> Scalars:
    beta1, beta2 = betas
    return Scalars(lr / (1 - beta1**step), 1 - beta1, beta2, eps, ops.unless_zero(weight_decay))


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_inf: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    exp_inf = ops.maximum(exp_inf * s.beta2, ops.abs(grad) + s.eps)
    return ops.addcdiv(base, exp_avg, exp_inf, value=-s.step_size), exp_avg, exp_inf


ADAMAX = Rule(leaf, scalars, init, AdamaxState, reads_param=lambda s: s.weight_decay is not None)


@factory
def adamax(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adamax: Adam with the largest recent gradient in place of the second moment.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon) \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \, \frac{m_t}{u_t}

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the average and of the maximum, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the gradient's size, in gradient units.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.

    Returns:
        A transformation with state :class:`AdamaxState`: ``step``, ``exp_avg`` and ``exp_inf`` (like the parameters).

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, section 7.1.

    Differs from Optax, whose ``learning_rate`` has no default.

    >>> import torch, optimfx as fx
    >>> tx = fx.adamax(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([4.0, -40.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1000,  0.1000])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return transformation("adamax", ADAMAX, maximize=maximize, state_dtype=state_dtype, **hyper)
