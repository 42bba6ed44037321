"""RAdam. Liu et al., On the Variance of the Adaptive Learning Rate and FromFactory, 2020."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class RAdamState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    lr: Scalar
    bias_correction1: Scalar  # 1 - beta1^t
    bias_correction2_sqrt: Scalar  # sqrt(1 - beta2^t)
    rectified: Any  # whether the variance of the adaptive step is tractable
    rectification: Scalar
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    eps: Scalar
    weight_decay: Scalar | None  # added to the gradient
    shrinkage: Scalar | None  # lr weight_decay, subtracted from the parameter


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
    weight_decay: Scalar,
    decoupled_weight_decay: bool,
) -> Scalars:
    beta1, beta2 = betas
    bias_correction2 = 1 - beta2**step
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / bias_correction2
    rectified = rho > 5
    # Clamp to 5, so that the rectification is finite where it is not used.
    rho, rho_inf = ops.maximum(rho, 5), ops.maximum(rho_inf, 5)
    l2, shrinkage = ops.decay_terms(lr, weight_decay, decoupled_weight_decay)
    return Scalars(
        lr=lr,
        bias_correction1=1 - beta1**step,
        bias_correction2_sqrt=bias_correction2**0.5,
        rectified=rectified,
        rectification=((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5,
        weight1=1 - beta1,
        beta2=beta2,
        weight2=1 - beta2,
        eps=eps,
        weight_decay=l2,
        shrinkage=shrinkage,
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    direction = exp_avg / s.bias_correction1 * s.lr
    if s.rectified is False:
        return ops.add(base, direction, alpha=-1), exp_avg, exp_avg_sq
    adaptive = direction * (s.bias_correction2_sqrt / (ops.sqrt(exp_avg_sq) + s.eps)) * s.rectification
    return ops.add(base, ops.where(s.rectified, adaptive, direction), alpha=-1), exp_avg, exp_avg_sq


RADAM = Rule(leaf, scalars, init, RAdamState, lambda s: s.weight_decay is not None or s.shrinkage is not None)


@factory
def radam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""RAdam: Adam with a warmup that rectifies the variance of its adaptive steps.

    .. math::
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
            \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        \theta_t &= \theta_{t-1} - \gamma \hat m_t \, r_t \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
            \quad\text{if } \rho_t > 5, \text{ else}\quad \theta_{t-1} - \gamma \hat m_t

    with :math:`v_t` and the bias-corrected :math:`\hat m_t` of :func:`~optimfx.adam`.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of an adaptive step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\ge 0`, added to the gradient as L2, or with ``decoupled_weight_decay`` subtracted from the
            parameter as ``lr weight_decay param``.
        decoupled_weight_decay: decay as :func:`~optimfx.adamw` does.

    Returns:
        A transformation with state :class:`RAdamState`: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameters).

    References:
        Liu et al., On the Variance of the Adaptive Learning Rate and FromFactory, 2020.

    Differs from Optax, which corrects the second moment before it adds ``eps``; from the paper, which switches at
    :math:`\rho_t > 4` (the 5 is torch's and Optax's).

    >>> import torch, optimfx as fx
    >>> tx = fx.radam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([4.0, -40.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.4000,  4.0000])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    flags = {"decoupled_weight_decay": decoupled_weight_decay}
    return transformation("radam", RADAM, maximize=maximize, state_dtype=state_dtype, **hyper, **flags)
