"""AdaBelief. Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, 2020."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class AdaBeliefState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_var: PyTree  # like the parameters: squared deviation from it


class Scalars(NamedTuple):
    step_size: Scalar  # lr / (1 - beta1^t)
    bias_correction2_sqrt: Scalar  # sqrt(1 - beta2^t)
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    eps: Scalar
    eps_root: Scalar


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, eps_root: Scalar) -> Scalars:
    beta1, beta2 = betas
    return Scalars(lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, 1 - beta1, beta2, 1 - beta2, eps, eps_root)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_var: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    deviation = grad - exp_avg
    exp_avg_var = ops.addcmul(exp_avg_var * s.beta2, deviation, deviation, value=s.weight2) + s.eps_root
    denom = ops.sqrt(exp_avg_var) / s.bias_correction2_sqrt + s.eps
    return ops.addcdiv(base, exp_avg, denom, value=-s.step_size), exp_avg, exp_avg_var


ADABELIEF = Rule(leaf, scalars, init, AdaBeliefState)


@factory
def adabelief(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-16,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 1e-16,
) -> GradientTransformation:
    r"""AdaBelief: Adam that divides by how far gradients stray from their average.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            s_t = \beta_2 s_{t-1} + (1 - \beta_2) (g_t - m_t)^2 + \epsilon_{\text{root}} \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \,
            \frac{m_t}{\sqrt{s_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units.
        betas: decays of the average and of the squared deviation, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added to the squared deviation at every step, in squared
            gradient units.

    Returns:
        A transformation with state :class:`AdaBeliefState`: ``step``, ``exp_avg``, ``exp_avg_var`` (like the
        parameters).

    References:
        Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, 2020.

    As Optax's, except for a default ``lr``. torch has no AdaBelief.

    >>> import torch, optimfx as fx
    >>> tx = fx.adabelief(lr=0.1)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([-0.1111,  0.1111])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "eps_root": eps_root}
    return transformation("adabelief", ADABELIEF, maximize=maximize, state_dtype=state_dtype, **hyper)
