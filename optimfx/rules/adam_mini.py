"""Adam-mini. Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More, 2024."""

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


class AdamMiniState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # shape=(n, 1, ..., 1) for a leaf of shape (n, ...): second moment of each row; else (1,)


class Scalars(NamedTuple):
    size: Scalar  # lr / (1 - beta1^t)
    bias_correction2: Scalar  # 1 - beta2^t
    weight1: Scalar  # 1 - beta1
    weight2: Scalar  # 1 - beta2
    eps: Scalar
    shrinkage: Scalar | None  # lr weight_decay


def init(param: Array) -> tuple[Array, Array]:
    shape = (param.shape[0], *[1] * (param.dim() - 1)) if param.dim() > 1 else (1,)
    return ops.zeros_like(param), ops.zeros(param, shape)


def unsupported_reason(param: Array) -> str | None:
    return "adam_mini has one second moment for the elements of a real row" if param.is_complex() else None


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, weight_decay: Scalar) -> Scalars:
    beta1, beta2 = betas
    shrinkage = ops.decay_terms(lr, weight_decay)[1]
    return Scalars(lr / (1 - beta1**step), 1 - beta2**step, 1 - beta1, 1 - beta2, eps, shrinkage)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    dims = tuple(range(1, len(grad.shape))) or (0,)
    exp_avg_sq = ops.lerp(exp_avg_sq, ops.mean(grad * grad, dims), s.weight2)
    denom = ops.sqrt(exp_avg_sq / s.bias_correction2) + s.eps
    return ops.addcdiv(base, exp_avg, denom, value=-s.size), exp_avg, exp_avg_sq


ADAM_MINI = Rule(
    leaf,
    scalars,
    init,
    AdamMiniState,
    reads_param=lambda s: s.shrinkage is not None,
    locality=Locality.TENSOR,
    unsupported_reason=unsupported_reason,
)


@factory
def adam_mini(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adam-mini: AdamW with one second moment for each row of a tensor, the weights of one output.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) \operatorname{mean}_{\text{row}}(g_t^2) \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    with both moments corrected for the bias as in :func:`~optimfx.adam`. A vector is one row.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, subtracted as ``lr weight_decay param``.
        state_dtype: dtype of the moments; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`AdamMiniState`: ``step``, ``exp_avg`` (like the parameters) and
        ``exp_avg_sq`` (one number for each row).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is complex.

    References:
        Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More, 2024.

    Neither torch nor Optax has it.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.adam_mini(lr=0.1), {"w": torch.zeros(2, 2)}
    >>> fx.step(tx, {"w": torch.tensor([[1.0, 7.0], [4.0, 4.0]])}, tx.init(params), params)[0]["w"]
    tensor([[-0.0200, -0.1400],
            [-0.1000, -0.1000]])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return transformation("adam_mini", ADAM_MINI, maximize=maximize, state_dtype=state_dtype, **hyper)
