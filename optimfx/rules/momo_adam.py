"""MoMo-Adam. Schaipp et al., MoMo: Momentum Models for Adaptive Learning Rates, 2023."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Betas,
    DType,
    GradientTransformation,
    NonNegative,
    PyTree,
    Real,
    Rule,
    Scalar,
    factory,
)
from optimfx.core.types import Value
from optimfx.execution import transformation
from optimfx.rules._shared.momo import CARRIES, TOTALS, begin, minimize_model


class MomoAdamState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    barf: PyTree  # shape=() per leaf: average of the losses
    gamma: PyTree  # shape=() per leaf: average of the inner products of gradients and parameters
    lb: PyTree  # shape=() per leaf: lower bound of the loss
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    barf: Scalar
    gamma: Scalar
    lb: Scalar
    size: Scalar
    shrinkage: Scalar
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    bias_correction2: Scalar  # 1 - beta2^t
    eps: Scalar


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def moments(
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    weight1: Scalar,
    beta2: Scalar,
    weight2: Scalar,
    bias_correction2: Scalar,
    eps: Scalar,
) -> tuple[Array, Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * beta2, grad, grad, value=weight2)
    return exp_avg, exp_avg_sq, ops.sqrt(exp_avg_sq / bias_correction2) + eps


def measure(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
) -> tuple[Array, Array, Array]:
    beta1, beta2 = betas
    exp_avg, _, denom = moments(grad, exp_avg, exp_avg_sq, 1 - beta1, beta2, 1 - beta2, 1 - beta2**step, eps)
    return ops.total(grad * param), ops.total(exp_avg * param), ops.total(exp_avg * exp_avg / denom)


def scalars(
    step: Scalar,
    barf: Scalar,
    gamma: Scalar,
    lb: Scalar,
    grad_dot: Scalar,
    avg_dot: Scalar,
    sq_norm: Scalar,
    value: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
    lower_bound: Scalar,
    weight_decay: Scalar,
    adapt_lower_bound: bool,
) -> Scalars:
    beta1, beta2 = betas
    totals, how = (grad_dot, avg_dot, sq_norm), (lr, lower_bound, weight_decay, adapt_lower_bound)
    model = minimize_model(barf, gamma, lb, totals, value, 1 - beta1, 1 - beta1**step, *how)
    return Scalars(*model, 1 - beta1, beta2, 1 - beta2, 1 - beta2**step, eps)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    exp_avg, exp_avg_sq, denom = moments(
        grad, exp_avg, exp_avg_sq, s.weight1, s.beta2, s.weight2, s.bias_correction2, s.eps
    )
    base = ops.addcdiv(ops.decay(base, param, s.shrinkage), exp_avg, denom, value=-s.size)
    return base, exp_avg, exp_avg_sq


MOMO_ADAM = Rule(
    leaf,
    scalars,
    init,
    MomoAdamState,
    lambda s: True,
    carries=CARRIES,
    begin=begin,
    measure=measure,
    totals=TOTALS,
    extra=("value",),
)


@factory
def momo_adam(
    lr: NonNegative = 1e-2,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    lower_bound: Real = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""MoMo-Adam: Adam whose learning rate is adapted to the value of the loss.

    .. math::
        d_t &= \sqrt{v_t / (1 - \beta_2^t)} + \epsilon, \qquad
            \theta_t = \frac{\theta_{t-1}}{1 + \gamma \lambda} - \tau_t \frac{m_t}{d_t} \\
        \tau_t &= \min\left(\frac{\gamma}{1 - \beta_1^t}, \, \frac{\max((1 + \gamma \lambda)
            (\bar f_t - (1 - \beta_1^t) f^* - c_t) + \langle m_t, \theta_{t-1} \rangle, 0)}
            {\langle m_t, m_t / d_t \rangle}\right)

    with the averages of :func:`~optimfx.momo`, which begin with 0 here, and Adam's second moment :math:`v_t`.

    Args:
        lr: :math:`\gamma \ge 0`, the greatest step size, before the bias correction.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        lower_bound: a lower bound of the loss.
        weight_decay: :math:`\lambda \ge 0`.
        adapt_lower_bound: raise the lower bound to what the steps show.
        state_dtype: dtype of the moments; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`MomoAdamState`: ``step``, ``barf``, ``gamma`` and ``lb`` (0-d, float64),
        ``exp_avg`` and ``exp_avg_sq`` (like the parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params`` or no
            ``value``.

    References:
        Schaipp et al., MoMo: Momentum Models for Adaptive Learning Rates, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.momo_adam(lr=1.0), {"w": torch.tensor([2.0])}
    >>> params, state = fx.step(tx, {"w": torch.tensor([4.0])}, tx.init(params), params, value=4.0)
    >>> params["w"]
    tensor([1.])
    """
    hyper: dict[str, Value] = {"lr": lr, "betas": betas, "eps": eps, "lower_bound": lower_bound}
    hyper |= {"weight_decay": weight_decay, "adapt_lower_bound": adapt_lower_bound}
    return transformation("momo_adam", MOMO_ADAM, state_dtype=state_dtype, **hyper)
