"""Prodigy. Mishchenko and Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, 2023."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Betas,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    factory,
)
from optimfx.core.ranges import Positive
from optimfx.execution import transformation


class ProdigyState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    estim_lr: PyTree  # shape=() per leaf: the estimate d with which the last step was taken
    numerator_weighted: PyTree  # shape=() per leaf: numerator of the next estimate
    exp_avg: PyTree  # like the parameters: first moment of d g
    exp_avg_sq: PyTree  # like the parameters: second moment of d g
    grad_sum: PyTree  # like the parameters: weighted sum of the gradients
    params0: PyTree  # like the parameters: where they began


class Scalars(NamedTuple):
    estim_lr: Scalar  # d
    numerator_weighted: Scalar
    size: Scalar  # d lr (1 - beta2^t)^(1/2) / (1 - beta1^t)
    beta1: Scalar
    beta2: Scalar
    weight1: Scalar  # (1 - beta1) d
    weight2: Scalar  # (1 - beta2) d^2
    beta3: Scalar
    weight3: Scalar  # of the gradient in the sum
    eps: Scalar  # d eps
    shrinkage: Scalar | None  # size weight_decay


def begin(estim_lr0: Hyper) -> tuple[Scalar, Scalar]:
    return ops.initial(estim_lr0), 0.0


def init(param: Array) -> tuple[Array, Array, Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param), ops.zeros_like(param), param.clone()


def measure(
    param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, grad_sum: Array, params0: Array
) -> tuple[Array, Array]:
    return ops.total(grad * (params0 - param)), ops.total(ops.abs(grad_sum))


def scalars(
    step: Scalar,
    estim_lr: Scalar,
    numerator_weighted: Scalar,
    inner_product: Scalar,
    grad_sum_norm: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    beta3: Scalar | None,
    eps: Scalar,
    estim_lr0: Scalar,
    estim_lr_coef: Scalar,
    weight_decay: Scalar,
    safeguard_warmup: bool,
) -> Scalars:
    beta1, beta2 = betas
    beta3 = beta2**0.5 if beta3 is None else beta3
    nothing_yet = grad_sum_norm == 0
    d = ops.maximum(estim_lr, estim_lr_coef * numerator_weighted / ops.where(nothing_yet, 1, grad_sum_norm))
    size = d * lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    return Scalars(
        estim_lr=d,
        numerator_weighted=beta3 * numerator_weighted + d / estim_lr0 * size * inner_product,
        size=size,
        beta1=beta1,
        beta2=beta2,
        weight1=(1 - beta1) * d,
        weight2=(1 - beta2) * d * d,
        beta3=beta3,
        weight3=(d if safeguard_warmup else size) * d / estim_lr0,
        eps=d * eps,
        shrinkage=ops.decay_terms(size, weight_decay)[1],
    )


def leaf(
    base: Array,
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    grad_sum: Array,
    params0: Array,
    s: Scalars,
) -> tuple[Array, Array, Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg = ops.add(exp_avg * s.beta1, grad, alpha=s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    grad_sum = ops.add(grad_sum * s.beta3, grad, alpha=s.weight3)
    base = ops.addcdiv(base, exp_avg, ops.sqrt(exp_avg_sq) + s.eps, value=-s.size)
    return base, exp_avg, exp_avg_sq, grad_sum, params0


CARRIES, TOTALS = ("estim_lr", "numerator_weighted"), ("inner_product", "grad_sum_norm")
PRODIGY = Rule(
    leaf, scalars, init, ProdigyState, lambda s: True, carries=CARRIES, begin=begin, measure=measure, totals=TOTALS
)


@factory
def prodigy(
    lr: NonNegative = 1.0,
    betas: Betas = (0.9, 0.999),
    beta3: Hyper | None = None,
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    estim_lr_coef: NonNegative = 1.0,
    weight_decay: NonNegative = 0.0,
    safeguard_warmup: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Prodigy: Adam whose learning rate is estimated from how far the parameters have come.

    .. math::
        d_t &= \max\left(d_{t-1}, \, c \, \frac{r_{t-1}}{\lVert s_{t-1} \rVert_1}\right), \qquad
            \gamma_t = d_t \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \\
        r_t &= \beta_3 r_{t-1} + \tfrac{d_t}{d_0} \gamma_t \langle g_t, \theta_0 - \theta_{t-1} \rangle, \qquad
            s_t = \beta_3 s_{t-1} + \tfrac{d_t}{d_0} \gamma_t g_t \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 g_t^2 \\
        \theta_t &= (1 - \gamma_t \lambda) \, \theta_{t-1} - \gamma_t \frac{m_t}{\sqrt{v_t} + d_t \epsilon}

    Inner products and norms are over all parameters.

    Args:
        lr: :math:`\gamma \ge 0`, a factor of the estimate: 1, or a schedule that ends below it.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        beta3: :math:`\beta_3`, decay of numerator and denominator; ``None`` for :math:`\sqrt{\beta_2}`.
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment.
        estim_lr0: :math:`d_0 > 0`, the first estimate, in parameter units: too small rather than too large.
        estim_lr_coef: :math:`c \ge 0`, a factor of later estimates.
        weight_decay: :math:`\lambda \ge 0`, subtracted as ``gamma_t weight_decay param``.
        safeguard_warmup: leave the learning rate out of the denominator's weights, for a schedule that warms up.
        state_dtype: dtype of the state, except counts and scalars; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`ProdigyState`: ``step``, ``estim_lr`` and ``numerator_weighted`` (0-d,
        float64), ``exp_avg``, ``exp_avg_sq``, ``grad_sum`` and ``params0`` (like the parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Mishchenko and Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, 2023.

    As Optax's, which scales :math:`\epsilon` by the next step's estimate, and whose state holds that estimate already.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.prodigy(estim_lr0=0.1), {"w": torch.tensor([1.0, -2.0])}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     params, state = fx.step(tx, params, state, params)
    """
    hyper = {"lr": lr, "betas": betas, "beta3": beta3, "eps": eps, "estim_lr0": estim_lr0}
    hyper |= {"estim_lr_coef": estim_lr_coef, "weight_decay": weight_decay, "safeguard_warmup": safeguard_warmup}
    return transformation("prodigy", PRODIGY, maximize=maximize, state_dtype=state_dtype, **hyper)
