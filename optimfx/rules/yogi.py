"""Yogi. Zaheer et al., Adaptive Methods for Nonconvex Optimization, 2018."""

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
from optimfx.execution import transformation


class YogiState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    step_size: Scalar  # lr / (1 - beta1^t)
    bias_correction2_sqrt: Scalar  # sqrt(1 - beta2^t)
    weight1: Scalar  # 1 - beta1
    weight2: Scalar  # 1 - beta2
    eps: Scalar


def init(param: Array, initial_accumulator_value: Hyper) -> tuple[Array, Array]:
    value = ops.initial(initial_accumulator_value)
    return ops.full_like(param, value), ops.full_like(param, value)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar) -> Scalars:
    beta1, beta2 = betas
    return Scalars(lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, 1 - beta1, 1 - beta2, eps)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    square = grad * grad
    exp_avg_sq = ops.addcmul(exp_avg_sq, ops.sign(exp_avg_sq - square), square, value=-s.weight2)
    denom = ops.sqrt(exp_avg_sq) / s.bias_correction2_sqrt + s.eps
    return ops.addcdiv(base, exp_avg, denom, value=-s.step_size), exp_avg, exp_avg_sq


YOGI = Rule(leaf, scalars, init, YogiState)


@factory
def yogi(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-3,
    initial_accumulator_value: NonNegative = 1e-6,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Yogi: Adam whose second moment moves by the size of the squared gradient, not by the distance to it.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = v_{t-1} - (1 - \beta_2) \operatorname{sign}(v_{t-1} - g_t^2) \, g_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \,
            \frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units.
        betas: decays of the two moments, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        initial_accumulator_value: what both moments begin with, at least 0.

    Returns:
        A transformation with state :class:`YogiState`: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameters).

    References:
        Zaheer et al., Adaptive Methods for Nonconvex Optimization, 2018.

    As Optax's, except for a default ``lr``. torch has no Yogi.

    >>> import torch, optimfx as fx
    >>> tx = fx.yogi(lr=0.1)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([-0.0996,  0.1000])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "initial_accumulator_value": initial_accumulator_value}
    return transformation("yogi", YOGI, maximize=maximize, state_dtype=state_dtype, **hyper)
