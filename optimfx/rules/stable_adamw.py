"""StableAdamW. Wortsman et al., Stable and Low-Precision Training for Large-Scale Vision-Language Models, 2023."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Betas,
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


class StableAdamWState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    lr: Scalar
    weight_decay: Scalar
    weight1: Scalar  # 1 - beta1, corrected for the bias
    beta2: Scalar  # corrected for the bias
    weight2: Scalar  # 1 - beta2, corrected for the bias
    eps: Scalar


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, weight_decay: Scalar) -> Scalars:
    beta1, beta2 = betas
    weight1, weight2 = ((1 - beta) / (1 - beta**step) for beta in (beta1, beta2))
    return Scalars(lr, weight_decay, weight1, 1 - weight2, weight2, eps)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    lr = s.lr / ops.maximum(ops.rms(grad / ops.maximum(ops.sqrt(exp_avg_sq), s.eps)), 1)
    base = ops.decay(base, param, lr * s.weight_decay)
    return ops.addcdiv(base, exp_avg, ops.sqrt(exp_avg_sq) + s.eps, value=-lr), exp_avg, exp_avg_sq


STABLE_ADAMW = Rule(leaf, scalars, init, StableAdamWState, reads_param=lambda s: True, locality=Locality.NORM)


@factory
def stable_adamw(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.99),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""StableAdamW: AdamW that takes a shorter step where a gradient is larger than its second moment expects.

    .. math::
        m_t &= m_{t-1} + \hat\alpha_1 (g_t - m_{t-1}), \qquad v_t = v_{t-1} + \hat\alpha_2 (g_t^2 - v_{t-1}), \qquad
            \hat\alpha_i = \frac{1 - \beta_i}{1 - \beta_i^t} \\
        \gamma_t &= \frac{\gamma}{\max(1, \mathrm{RMS}_t)}, \qquad
            \mathrm{RMS}_t = \sqrt{\operatorname{mean}\left(\frac{g_t^2}{\max(v_t, \epsilon^2)}\right)} \\
        \theta_t &= (1 - \gamma_t \lambda) \, \theta_{t-1} - \gamma_t \frac{m_t}{\sqrt{v_t} + \epsilon}

    with a mean over the leaf.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, subtracted as ``lr_t weight_decay param``.
        state_dtype: dtype of the moments; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`StableAdamWState`: ``step``, ``exp_avg`` and ``exp_avg_sq`` (like the
        parameters), of which the averages are corrected for the bias.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Wortsman et al., Stable and Low-Precision Training for Large-Scale Vision-Language Models, 2023.

    Neither torch nor Optax has it.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.stable_adamw(lr=0.1, weight_decay=0.0), {"w": torch.tensor([1.0, -2.0])}
    >>> fx.step(tx, {"w": torch.tensor([4.0, -40.0])}, tx.init(params), params)[0]
    {'w': tensor([ 0.9000, -1.9000])}
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return transformation("stable_adamw", STABLE_ADAMW, maximize=maximize, state_dtype=state_dtype, **hyper)
