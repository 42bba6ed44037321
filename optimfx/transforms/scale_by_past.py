"""Directions of algorithms that divide by what they knew before, or add up instead of averaging."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class ACPropState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_var: PyTree  # like the parameters: second moment of what the average did not predict


class ACPropScalars(NamedTuple):
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    known: Scalar  # 0 at the first step, which divides by 1, then 1
    bias_correction2_sqrt: Scalar  # sqrt(1 - beta2^(t - 1)), of the moment before this step
    eps: Scalar
    eps_root: Scalar


def two_slots(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def acprop_scalars(step: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, eps_root: Scalar) -> ACPropScalars:
    beta1, beta2 = betas
    root = (1 - beta2 ** ops.maximum(step - 1, 1)) ** 0.5
    return ACPropScalars(1 - beta1, beta2, 1 - beta2, ops.where(step == 1, 0, 1), root, eps, eps_root)


def acprop_leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_var: Array, s: ACPropScalars
) -> tuple[Array, Array, Array]:
    size = ops.sqrt(exp_avg_var) / s.bias_correction2_sqrt
    denom = size * s.known + (1 - s.known) + s.eps
    error = grad - exp_avg
    exp_avg_var = ops.addcmul(exp_avg_var * s.beta2, error, error, value=s.weight2) + s.eps_root
    return ops.addcdiv(base, grad, denom), ops.lerp(exp_avg, grad, s.weight1), exp_avg_var


ACPROP = Rule(acprop_leaf, acprop_scalars, two_slots, ACPropState)


@factory
def scale_by_acprop(
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Divide the gradient by how far the gradients before it strayed from their average.

    .. math::
        u_t = \frac{g_t}{\sqrt{s_{t-1} / (1 - \beta_2^{t-1})} + \epsilon}, \qquad
        s_t = \beta_2 s_{t-1} + (1 - \beta_2) (g_t - m_{t-1})^2 + \bar\epsilon

    with :math:`m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t`; at the first step :math:`u_1 = g_1 / (1 + \epsilon)`.

    Args:
        betas: decays of the average and of the second moment, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        eps_root: :math:`\bar\epsilon \ge 0`, added to the second moment at every step.

    Returns:
        A transformation with state :class:`ACPropState`: ``step``, ``exp_avg`` and ``exp_avg_var`` (like the
        parameters).

    References:
        Zhuang et al., Momentum Centering and Asynchronous Update for Adaptive Gradient Methods, 2021.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.scale_by_acprop(), fx.scale_by_lr(0.1))
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([-0.4000])}
    """
    return transformation("scale_by_acprop", ACPROP, state_dtype=state_dtype, betas=betas, eps=eps, eps_root=eps_root)


class SimplifiedAdEMAMixState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    momentum_buffer: PyTree  # like the parameters: decayed sum of the gradients
    exp_avg_sq: PyTree  # like the parameters: second moment


class SimplifiedScalars(NamedTuple):
    beta1: Scalar
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    alpha: Scalar
    bias_correction2: Scalar
    eps: Scalar
    eps_root: Scalar


def simplified_scalars(
    step: Scalar, betas: tuple[Scalar, Scalar], alpha: Scalar, eps: Scalar, eps_root: Scalar
) -> SimplifiedScalars:
    beta1, beta2 = betas
    return SimplifiedScalars(beta1, beta2, 1 - beta2, alpha, 1 - beta2**step, eps, eps_root)


def simplified_leaf(
    base: Array, param: Array, grad: Array, momentum_buffer: Array, exp_avg_sq: Array, s: SimplifiedScalars
) -> tuple[Array, Array, Array]:
    momentum_buffer = momentum_buffer * s.beta1 + grad
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    denom = ops.sqrt(exp_avg_sq / s.bias_correction2 + s.eps_root) + s.eps
    return ops.addcdiv(base, momentum_buffer + grad * s.alpha, denom), momentum_buffer, exp_avg_sq


SIMPLIFIED = Rule(simplified_leaf, simplified_scalars, two_slots, SimplifiedAdEMAMixState)


@factory
def scale_by_simplified_ademamix(
    betas: Betas = (0.99, 0.95),
    alpha: NonNegative = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Divide a decayed sum of the gradients, and the gradient itself, by the root of the second moment.

    .. math::
        m_t &= \beta_1 m_{t-1} + g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \frac{m_t + \alpha g_t}{\sqrt{v_t / (1 - \beta_2^t) + \bar\epsilon} + \epsilon}

    Args:
        betas: decays of the sum and of the second moment, each in [0, 1).
        alpha: :math:`\alpha \ge 0`, weight of the gradient beside the sum. As the sum is not an average, so is the
            direction :math:`1 / (1 - \beta_1)` times as large as Adam's.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        eps_root: :math:`\bar\epsilon \ge 0`, under the root.

    Returns:
        A transformation with state :class:`SimplifiedAdEMAMixState`: ``step``, ``momentum_buffer`` and ``exp_avg_sq``
        (like the parameters).

    References:
        Morwani et al., Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD Variants, 2025.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.scale_by_simplified_ademamix(alpha=1.0), fx.scale_by_lr(0.1))
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([-0.2000])}
    """
    return transformation(
        "scale_by_simplified_ademamix",
        SIMPLIFIED,
        state_dtype=state_dtype,
        betas=betas,
        alpha=alpha,
        eps=eps,
        eps_root=eps_root,
    )
