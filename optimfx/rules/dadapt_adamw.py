"""D-Adapted AdamW. Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, 2023."""

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
    Positive,
    PyTree,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation


class DAdaptAdamWState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    estim_lr: PyTree  # shape=() per leaf: the estimate d with which the last step was taken
    numerator_weighted: PyTree  # shape=() per leaf: numerator of the next estimate
    exp_avg: PyTree  # like the parameters: first moment of the steps
    exp_avg_sq: PyTree  # like the parameters: second moment
    grad_sum: PyTree  # like the parameters: weighted average of the gradients


class Scalars(NamedTuple):
    estim_lr: Scalar  # d
    numerator_weighted: Scalar
    beta1: Scalar
    weight1: Scalar  # (1 - beta1) size
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    beta3: Scalar  # beta2^(1/2)
    weight3: Scalar  # (1 - beta3) size
    eps: Scalar
    shrinkage: Scalar | None  # size weight_decay


def begin(estim_lr0: Hyper) -> tuple[Scalar, Scalar]:
    return ops.initial(estim_lr0), 0.0


def init(param: Array) -> tuple[Array, Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param), ops.zeros_like(param)


def measure(
    param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, grad_sum: Array, eps: Scalar
) -> tuple[Array, Array]:
    return ops.total(grad * grad_sum / (ops.sqrt(exp_avg_sq) + eps)), ops.total(ops.abs(grad_sum))


def scalars(
    step: Scalar,
    estim_lr: Scalar,
    numerator_weighted: Scalar,
    inner_product: Scalar,
    grad_sum_norm: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
    estim_lr0: Scalar,
    weight_decay: Scalar,
) -> Scalars:
    beta1, beta2 = betas
    beta3 = beta2**0.5
    nothing_yet = grad_sum_norm == 0
    d = ops.maximum(estim_lr, numerator_weighted / ((1 - beta3) * ops.where(nothing_yet, 1, grad_sum_norm)))
    size = d * lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    return Scalars(
        estim_lr=d,
        numerator_weighted=beta3 * numerator_weighted + (1 - beta3) * size * inner_product,
        beta1=beta1,
        weight1=(1 - beta1) * size,
        beta2=beta2,
        weight2=1 - beta2,
        beta3=beta3,
        weight3=(1 - beta3) * size,
        eps=eps,
        shrinkage=ops.decay_terms(size, weight_decay)[1],
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, grad_sum: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg = ops.add(exp_avg * s.beta1, grad, alpha=s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    grad_sum = ops.add(grad_sum * s.beta3, grad, alpha=s.weight3)
    base = ops.addcdiv(base, exp_avg, ops.sqrt(exp_avg_sq) + s.eps, value=-1)
    return base, exp_avg, exp_avg_sq, grad_sum


DADAPT_ADAMW = Rule(
    leaf,
    scalars,
    init,
    DAdaptAdamWState,
    lambda s: s.shrinkage is not None,
    carries=("estim_lr", "numerator_weighted"),
    begin=begin,
    measure=measure,
    totals=("inner_product", "grad_sum_norm"),
)


@factory
def dadapt_adamw(
    lr: NonNegative = 1.0,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    estim_lr0: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""AdamW with D-Adaptation: the learning rate is a lower bound of the distance to the solution.

    .. math::
        d_t &= \max\left(d_{t-1}, \, \frac{r_{t-1}}{(1 - \beta_3) \lVert s_{t-1} \rVert_1}\right), \qquad
            \gamma_t = d_t \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}, \qquad \beta_3 = \sqrt{\beta_2} \\
        r_t &= \beta_3 r_{t-1} + (1 - \beta_3) \gamma_t
            \left\langle g_t, \frac{s_{t-1}}{\sqrt{v_{t-1}} + \epsilon} \right\rangle, \qquad
            s_t = \beta_3 s_{t-1} + (1 - \beta_3) \gamma_t g_t \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \gamma_t g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma_t \lambda) \, \theta_{t-1} - \frac{m_t}{\sqrt{v_t} + \epsilon}

    with inner products and norms over all parameters.

    Args:
        lr: :math:`\gamma \ge 0`, a factor of the estimate: 1, or a schedule that ends below it.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        estim_lr0: :math:`d_0 > 0`, the first estimate, in parameter units: too small rather than too large.
        weight_decay: :math:`\lambda \ge 0`, subtracted as ``gamma_t weight_decay param``.
        state_dtype: dtype of the state, except counts and scalars; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`DAdaptAdamWState`: ``step``, ``estim_lr`` and ``numerator_weighted`` (0-d,
        float64), ``exp_avg``, ``exp_avg_sq`` and ``grad_sum`` (like the parameters).

    References:
        Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, 2023.

    As Optax's, whose state holds the next step's estimate already.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.dadapt_adamw(estim_lr0=0.1), {"w": torch.tensor([1.0, -2.0])}
    >>> state = tx.init(params)
    >>> for _ in range(20):
    ...     params, state = fx.step(tx, params, state, params)
    >>> bool(state.estim_lr["w"] > 0.1)
    True
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "estim_lr0": estim_lr0, "weight_decay": weight_decay}
    return transformation("dadapt_adamw", DADAPT_ADAMW, maximize=maximize, state_dtype=state_dtype, **hyper)
