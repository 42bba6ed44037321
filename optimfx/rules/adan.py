"""Adan. Xie et al., Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models, 2022."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    DType,
    GradientTransformation,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    ThreeBetas,
    factory,
)
from optimfx.execution import transformation


class AdanState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_diff: PyTree  # like the parameters: average of the gradient's change
    exp_avg_sq: PyTree  # like the parameters: second moment of the gradient that looks ahead
    prev: PyTree  # like the parameters: the last gradient


class Scalars(NamedTuple):
    lr: Scalar
    bias_correction1: Scalar  # 1 - beta1^t
    bias_correction2: Scalar  # 1 - beta2^t
    bias_correction3: Scalar  # 1 - beta3^t
    weight1: Scalar  # 1 - beta1
    weight2: Scalar  # 1 - beta2
    beta3: Scalar
    weight3: Scalar  # 1 - beta3
    changed: Scalar  # 0 at the first step, which has no last gradient, then 1
    eps: Scalar
    eps_root: Scalar
    shrinkage: Scalar | None  # lr weight_decay


def init(param: Array) -> tuple[Array, Array, Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param), ops.zeros_like(param), ops.zeros_like(param)


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar, Scalar],
    eps: Scalar,
    eps_root: Scalar,
    weight_decay: Scalar,
) -> Scalars:
    beta1, beta2, beta3 = betas
    return Scalars(
        lr=lr,
        bias_correction1=1 - beta1**step,
        bias_correction2=1 - beta2**step,
        bias_correction3=1 - beta3**step,
        weight1=1 - beta1,
        weight2=1 - beta2,
        beta3=beta3,
        weight3=1 - beta3,
        changed=ops.where(step == 1, 0, 1),
        eps=eps,
        eps_root=eps_root,
        shrinkage=ops.decay_terms(lr, weight_decay)[1],
    )


def leaf(
    base: Array,
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_diff: Array,
    exp_avg_sq: Array,
    prev: Array,
    s: Scalars,
) -> tuple[Array, Array, Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    diff = (grad - prev) * s.changed
    ahead = ops.add(grad, diff, alpha=s.weight2)
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    exp_avg_diff = ops.lerp(exp_avg_diff, diff, s.weight2)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta3, ahead, ahead, value=s.weight3)
    direction = ops.add(exp_avg / s.bias_correction1, exp_avg_diff / s.bias_correction2, alpha=s.weight2)
    denom = ops.sqrt(exp_avg_sq / s.bias_correction3 + s.eps_root) + s.eps
    return ops.addcdiv(base, direction, denom, value=-s.lr), exp_avg, exp_avg_diff, exp_avg_sq, grad


ADAN = Rule(leaf, scalars, init, AdanState, reads_param=lambda s: s.shrinkage is not None)


@factory
def adan(
    lr: NonNegative = 1e-3,
    betas: ThreeBetas = (0.98, 0.92, 0.99),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 1e-8,
) -> GradientTransformation:
    r"""Adan: Nesterov's look-ahead from the gradient's change, with moments of each.

    .. math::
        d_t &= g_t - g_{t-1}, \qquad d_1 = 0, \qquad m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t \\
        n_t &= \beta_3 n_{t-1} + (1 - \beta_3) (g_t + (1 - \beta_2) d_t)^2 \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \,
            \frac{\hat m_t + (1 - \beta_2) \hat v_t}{\sqrt{\hat n_t + \epsilon_{\text{root}}} + \epsilon}

    A hat marks what is bias-corrected: divided by :math:`1 - \beta_i^t`, with the :math:`\beta_i` of its average.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of gradient, change and square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`AdanState`: ``step``, ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``,
        ``prev`` (like the parameters).

    References:
        Xie et al., Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models, 2022.

    As Optax's, except for a default ``lr``. The paper divides by :math:`1 + \gamma \lambda` for its decay.

    >>> import torch, optimfx as fx
    >>> tx = fx.adan(lr=0.1)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([-0.1000,  0.1000])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    return transformation("adan", ADAN, maximize=maximize, state_dtype=state_dtype, **hyper)
