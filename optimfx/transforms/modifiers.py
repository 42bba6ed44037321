"""Modifiers that go before or after any algorithm in a chain."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Decay,
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
from optimfx.transforms.clip import shrink, shrinking
from optimfx.transforms.weight_decay import Scalars as DecayScalars
from optimfx.transforms.weight_decay import scalars as decay_scalars


class GrokfastState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: average of the gradients


class GrokfastScalars(NamedTuple):
    weight: Scalar  # 1 - alpha, and 1 at the first step
    lamb: Scalar


def one_slot(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def grokfast_scalars(step: Scalar, alpha: Scalar, lamb: Scalar) -> GrokfastScalars:
    return GrokfastScalars(ops.where(step == 1, 1, 1 - alpha), lamb)


def grokfast_leaf(base: Array, param: Array, grad: Array, exp_avg: Array, s: GrokfastScalars) -> tuple[Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, s.weight)
    return ops.add(base, ops.add(grad, exp_avg, alpha=s.lamb)), exp_avg


GROKFAST = Rule(grokfast_leaf, grokfast_scalars, one_slot, GrokfastState)


@factory
def grokfast_ema(
    alpha: Decay = 0.98, lamb: NonNegative = 2.0, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Amplify the slow part of the gradients: before an algorithm in a chain.

    .. math::
        m_t = \alpha m_{t-1} + (1 - \alpha) g_t, \qquad g_t \to g_t + \lambda m_t

    Args:
        alpha: :math:`\alpha`, decay of the average, in [0, 1). The average begins with the first gradient.
        lamb: :math:`\lambda \ge 0`, how much of the average is added.
        state_dtype: dtype of the average; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`GrokfastState`: ``step`` and ``exp_avg`` (like the parameters).

    References:
        Lee et al., Grokfast: Accelerated Grokking by Amplifying Slow Gradients, 2024.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.grokfast_ema(lamb=2.0), fx.sgd(lr=0.1))
    >>> tx.update({"w": torch.tensor([1.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([-0.3000])}
    """
    return transformation("grokfast_ema", GROKFAST, state_dtype=state_dtype, alpha=alpha, lamb=lamb)


class MARSState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    previous_gradient: PyTree  # like the parameters: the last gradient


class MARSScalars(NamedTuple):
    scale: Scalar  # gamma beta / (1 - beta), and 0 at the first step, which has no last gradient
    max_norm: Scalar


def mars_scalars(step: Scalar, gamma: Scalar, beta: Scalar, max_norm: Scalar) -> MARSScalars:
    return MARSScalars(ops.where(step == 1, 0, gamma * beta / (1 - beta)), max_norm)


def mars_leaf(base: Array, param: Array, grad: Array, previous_gradient: Array, s: MARSScalars) -> tuple[Array, Array]:
    corrected = grad + (grad - previous_gradient) * s.scale
    return (*shrink(base, param, corrected, shrinking(ops.norm(corrected), s.max_norm)), grad)


MARS = Rule(mars_leaf, mars_scalars, one_slot, MARSState, locality=Locality.NORM)


@factory
def mars_correction(
    gamma: NonNegative = 0.025, beta: Decay = 0.95, max_norm: NonNegative = 1.0, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Reduce the variance of the gradients, as MARS does: before an algorithm in a chain.

    .. math::
        c_t = g_t + \gamma \frac{\beta}{1 - \beta} (g_t - g_{t-1}), \qquad c_t \to c_t \min(1, n / \|c_t\|)

    Args:
        gamma: :math:`\gamma \ge 0`, how much of the correction is used.
        beta: :math:`\beta`, the decay of the momentum of the algorithm that follows, in [0, 1).
        max_norm: :math:`n \ge 0`, the greatest norm of a corrected leaf.
        state_dtype: dtype of the last gradient; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`MARSState`: ``step`` and ``previous_gradient`` (like the parameters).

    References:
        Yuan et al., MARS: Unleashing the Power of Variance Reduction for Training Large Models, 2024: the approximate
        form, which takes the last gradient as it was, at other data.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.mars_correction(beta=0.95), fx.adamw(betas=(0.95, 0.99)))
    >>> tx = fx.mars_correction(gamma=1.0, beta=0.5, max_norm=10.0)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for grad in (1.0, 3.0):
    ...     updates, state = tx.update({"w": torch.tensor([grad])}, state)
    >>> updates["w"]
    tensor([5.])
    """
    return transformation("mars_correction", MARS, state_dtype=state_dtype, gamma=gamma, beta=beta, max_norm=max_norm)


def cautious_leaf(base: Array, param: Array, update: Array, s: DecayScalars) -> tuple[Array]:
    decayed = ops.where(update * param >= 0, param * s.weight_decay, 0.0)
    return (ops.add(base, update + decayed),)


CAUTIOUS_DECAY = Rule(cautious_leaf, decay_scalars, reads_param=lambda s: True)


@factory
def add_cautious_weight_decay(weight_decay: NonNegative = 0.0) -> GradientTransformation:
    r"""Decay only the elements that the update shrinks anyway: after a direction, before the learning rate.

    .. math::
        u \to u + \lambda \theta \, [u \theta \ge 0]

    Args:
        weight_decay: :math:`\lambda \ge 0`.

    Returns:
        A transformation without state (a step count, when ``weight_decay`` is a schedule).

    Raises:
        ValueError, TypeError: ``weight_decay`` is negative or not a scalar; at ``update``, no ``params``.

    References:
        Chen et al., Cautious Weight Decay, 2025.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.scale_by_adam(), fx.add_cautious_weight_decay(0.1), fx.scale_by_lr(1e-3))
    >>> tx, params = fx.add_cautious_weight_decay(0.1), {"w": torch.tensor([10.0, 10.0])}
    >>> tx.update({"w": torch.tensor([1.0, -1.0])}, tx.init(params), params)[0]
    {'w': tensor([ 2., -1.])}
    """
    return transformation("add_cautious_weight_decay", CAUTIOUS_DECAY, weight_decay=weight_decay)
