"""ADOPT. Taniguchi et al., ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate, 2024."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class ADOPTState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: average of the scaled gradient
    exp_avg_sq: PyTree  # like the parameters: second moment, which the next gradient is scaled by


class Scalars(NamedTuple):
    lr: Scalar
    weight1: Scalar  # 1 - beta1, and 0 at the first step
    beta2: Scalar  # and 0 at the first step
    weight2: Scalar  # 1 - beta2, and 1 at the first step
    eps: Scalar
    bound: Scalar | None  # of the scaled gradient's elements


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, clip: bool) -> Scalars:
    beta1, beta2 = betas
    return Scalars(
        lr=lr,
        weight1=ops.where(step == 1, 0, 1 - beta1),
        beta2=ops.where(step == 1, 0, beta2),
        weight2=ops.where(step == 1, 1, 1 - beta2),
        eps=eps,
        bound=(step - 1) ** 0.25 if clip else None,
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    scaled = grad / ops.maximum(ops.sqrt(exp_avg_sq), s.eps)
    if s.bound is not None:
        scaled = ops.clamp(scaled, -s.bound, s.bound)
    exp_avg = ops.lerp(exp_avg, scaled, s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    return ops.add(base, exp_avg, alpha=-s.lr), exp_avg, exp_avg_sq


ADOPT = Rule(leaf, scalars, init, ADOPTState)


@factory
def adopt(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.9999),
    eps: NonNegative = 1e-6,
    clip: bool = True,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""ADOPT: each gradient is scaled by the second moment before it, then averaged. The first only sets that moment.

    .. math::
        c_t &= \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, \pm (t - 1)^{1/4}\right), \qquad
            m_t = \beta_1 m_{t-1} + (1 - \beta_1) c_t, \qquad m_1 = 0 \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad v_1 = g_1^2, \qquad
            \theta_t = \theta_{t-1} - \gamma m_t

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the average and of the second moment, each in [0, 1).
        eps: the least :math:`\epsilon \ge 0` that a gradient is divided by, in gradient units.
        clip: limit the elements of the scaled gradient to the fourth root of the steps before; else :math:`c_t` is the
            scaled gradient itself.

    Returns:
        A transformation with state :class:`ADOPTState`: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameters).

    References:
        Taniguchi et al., ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate, 2024.

    As Optax's, except for a default ``lr``; ``clip`` is its ``use_clipping``. torch has no ADOPT.

    >>> import torch, optimfx as fx
    >>> tx = fx.adopt(lr=0.1)
    >>> state = tx.init({"w": torch.zeros(2)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.tensor([0.5, -3.0])}, state)
    >>> updates["w"]
    tensor([-0.0100,  0.0100])
    """
    return transformation(
        "adopt", ADOPT, maximize=maximize, state_dtype=state_dtype, lr=lr, betas=betas, eps=eps, clip=clip
    )
