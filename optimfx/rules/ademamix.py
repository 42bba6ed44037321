"""AdEMAMix. Pagliardini et al., The AdEMAMix Optimizer: Better, Faster, Older, 2024."""

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


class AdEMAMixState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg_fast: PyTree  # like the parameters: first moment
    exp_avg_slow: PyTree  # like the parameters: first moment with a long memory
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    lr: Scalar
    alpha: Scalar
    bias_correction1: Scalar  # 1 - beta1^t
    bias_correction2: Scalar  # 1 - beta2^t
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    weight3: Scalar  # 1 - beta3
    eps: Scalar
    eps_root: Scalar
    shrinkage: Scalar | None  # lr weight_decay


def init(param: Array) -> tuple[Array, Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param), ops.zeros_like(param)


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar, Scalar],
    alpha: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    weight_decay: Scalar,
) -> Scalars:
    beta1, beta2, beta3 = betas
    return Scalars(
        lr=lr,
        alpha=alpha,
        bias_correction1=1 - beta1**step,
        bias_correction2=1 - beta2**step,
        weight1=1 - beta1,
        beta2=beta2,
        weight2=1 - beta2,
        weight3=1 - beta3,
        eps=eps,
        eps_root=eps_root,
        shrinkage=ops.decay_terms(lr, weight_decay)[1],
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg_fast: Array, exp_avg_slow: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg_fast = ops.lerp(exp_avg_fast, grad, s.weight1)
    exp_avg_slow = ops.lerp(exp_avg_slow, grad, s.weight3)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    direction = ops.add(exp_avg_fast / s.bias_correction1, exp_avg_slow, alpha=s.alpha)
    denom = ops.sqrt(exp_avg_sq / s.bias_correction2 + s.eps_root) + s.eps
    return ops.addcdiv(base, direction, denom, value=-s.lr), exp_avg_fast, exp_avg_slow, exp_avg_sq


ADEMAMIX = Rule(leaf, scalars, init, AdEMAMixState, reads_param=lambda s: s.shrinkage is not None)


@factory
def ademamix(
    lr: NonNegative = 1e-3,
    betas: ThreeBetas = (0.9, 0.999, 0.9999),
    alpha: NonNegative = 5.0,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 0.0,
) -> GradientTransformation:
    r"""AdEMAMix: Adam with a second, slow average of the gradient.

    .. math::
        m^i_t &= \beta_i m^i_{t-1} + (1 - \beta_i) g_t \;\text{for}\; i = 1, 3, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \,
            \frac{\hat m^1_t + \alpha m^3_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    A hat marks what is bias-corrected: divided by :math:`1 - \beta_i^t`, with the :math:`\beta_i` of its average.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the fast average, of the square, and of the slow average, each in [0, 1). The paper raises the
            last one with a schedule.
        alpha: weight :math:`\ge 0` of the slow average. The paper raises it with a schedule.
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`AdEMAMixState`: ``step``, ``exp_avg_fast``, ``exp_avg_slow``,
        ``exp_avg_sq`` (like the parameters).

    References:
        Pagliardini et al., The AdEMAMix Optimizer: Better, Faster, Older, 2024.

    As Optax's, except for a default ``lr``. torch has no AdEMAMix.

    >>> import torch, optimfx as fx
    >>> tx = fx.ademamix(lr=0.1)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([-0.1000,  0.1001])
    """
    hyper = {"lr": lr, "betas": betas, "alpha": alpha, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    return transformation("ademamix", ADEMAMIX, maximize=maximize, state_dtype=state_dtype, **hyper)
