"""MADGRAD. Defazio and Jelassi, Adaptivity without Compromise, 2021."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import Array, Decay, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.transforms.weight_decay import add_decayed_weights


class MadgradState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    grad_sum_sq: PyTree  # like the parameters: weighted sum of the squared gradients
    grad_sum: PyTree  # like the parameters: weighted sum of the gradients
    x0: PyTree  # like the parameters: where they began


class Scalars(NamedTuple):
    size: Scalar  # (lr + eps) t^(1/2)
    weight: Scalar  # 1 - momentum
    eps: Scalar


def init(param: Array) -> tuple[Array, Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param), param.clone()


def scalars(step: Scalar, lr: Scalar, momentum: Scalar, eps: Scalar) -> Scalars:
    return Scalars((lr + eps) * step**0.5, 1 - momentum, eps)


def leaf(
    base: Array, param: Array, grad: Array, grad_sum_sq: Array, grad_sum: Array, x0: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    grad_sum_sq = ops.addcmul(grad_sum_sq, grad, grad, value=s.size)
    grad_sum = ops.add(grad_sum, grad, alpha=s.size)
    target = x0 - grad_sum / (ops.cbrt(grad_sum_sq) + s.eps)
    return ops.add(base, target - param, alpha=s.weight), grad_sum_sq, grad_sum, x0


MADGRAD = Rule(leaf, scalars, init, MadgradState, reads_param=lambda s: True)


@factory
def scale_by_madgrad(
    lr: NonNegative = 1e-2, momentum: Decay = 0.9, eps: NonNegative = 1e-6, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Make of gradients the step of MADGRAD: towards the minimizer of all gradients so far, from the start.

    .. math::
        \lambda_t &= (\gamma + \epsilon) \sqrt{t}, \qquad s_t = s_{t-1} + \lambda_t g_t, \qquad
            \nu_t = \nu_{t-1} + \lambda_t g_t^2 \\
        u_t &= (1 - \mu) \left(\theta_0 - \frac{s_t}{\sqrt[3]{\nu_t} + \epsilon} - \theta_{t-1}\right)

    The result is the update itself: the learning rate is in it, and nothing negates it.

    Args:
        lr: learning rate :math:`\gamma \ge 0`.
        momentum: :math:`\mu`, in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the learning rate and to the cube root.

    Returns:
        A transformation with state :class:`MadgradState`: ``step``, ``grad_sum_sq``, ``grad_sum`` and ``x0`` (like the
        parameters).

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Defazio and Jelassi, Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient Method for
        Stochastic Optimization, 2021.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_madgrad(lr=1.0, momentum=0.5, eps=0.0), {"w": torch.tensor([2.0])}
    >>> tx.update({"w": torch.tensor([8.0])}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    return transformation("scale_by_madgrad", MADGRAD, state_dtype=state_dtype, lr=lr, momentum=momentum, eps=eps)


@factory
def madgrad(
    lr: NonNegative = 1e-2,
    momentum: Decay = 0.9,
    weight_decay: NonNegative = 0.0,
    eps: NonNegative = 1e-6,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""MADGRAD: dual averaging with momentum and adaptive steps, after :func:`~optimfx.add_decayed_weights`.

    Args:
        lr: learning rate :math:`\ge 0`; larger than Adam's, and with less decay.
        momentum: in [0, 1).
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.
        eps: :math:`\ge 0`, added to the learning rate and to the cube root.

    Returns:
        A transformation with the states of its two links.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Defazio and Jelassi, Adaptivity without Compromise, 2021.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.madgrad(lr=1.0, momentum=0.5, eps=0.0), {"w": torch.tensor([2.0])}
    >>> fx.step(tx, {"w": torch.tensor([8.0])}, tx.init(params), params)[0]
    {'w': tensor([1.])}
    """
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(lr, momentum, eps, state_dtype=state_dtype))
