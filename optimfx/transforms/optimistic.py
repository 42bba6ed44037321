"""Updates that step ahead by the last change of the gradient."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import Array, DType, GradientTransformation, NonNegative, PyTree, Real, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.transforms.scale import scale_by_lr


class OptimisticGradientState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    previous_gradient: PyTree  # like the parameters: the last update that came in


class Scalars(NamedTuple):
    new: Scalar  # alpha + beta, and alpha at the first step, which has no last gradient
    old: Scalar  # beta


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def scalars(step: Scalar, alpha: Scalar, beta: Scalar) -> Scalars:
    return Scalars(ops.where(step == 1, alpha, alpha + beta), beta)


def leaf(base: Array, param: Array, update: Array, previous_gradient: Array, s: Scalars) -> tuple[Array, Array]:
    return ops.add(base, update * s.new - previous_gradient * s.old), update


OPTIMISTIC = Rule(leaf, scalars, init, OptimisticGradientState)


@factory
def scale_by_optimistic_gradient(
    alpha: Real = 1.0, beta: Real = 1.0, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Add to the updates their last change: :math:`u_t \to \alpha u_t + \beta (u_t - u_{t-1})`.

    Args:
        alpha: :math:`\alpha`, weight of the update.
        beta: :math:`\beta`, weight of its change; there is none at the first step.
        state_dtype: dtype of the last update; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`OptimisticGradientState`: ``step`` and ``previous_gradient`` (like the
        parameters).

    Raises:
        ValueError, TypeError: an argument is not a scalar.

    References:
        Daskalakis et al., Training GANs with Optimism, 2018. Mokhtari et al., A Unified Analysis of Extra-gradient and
        Optimistic Gradient Methods for Saddle Point Problems, 2020.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_optimistic_gradient()
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for grad in (1.0, 3.0):
    ...     updates, state = tx.update({"w": torch.tensor([grad])}, state)
    ...     print(updates["w"])
    tensor([1.])
    tensor([5.])
    """
    return transformation("scale_by_optimistic_gradient", OPTIMISTIC, state_dtype=state_dtype, alpha=alpha, beta=beta)


@factory
def optimistic_gradient_descent(
    lr: NonNegative, alpha: Real = 1.0, beta: Real = 1.0, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Gradient descent for min-max problems: a chain of :func:`scale_by_optimistic_gradient` and a learning rate.

    .. math::
        \theta_t = \theta_{t-1} - \gamma (\alpha g_t + \beta (g_t - g_{t-1}))

    Args:
        lr: learning rate :math:`\gamma \ge 0`.
        alpha: :math:`\alpha`, weight of the gradient.
        beta: :math:`\beta`, weight of its change.
        state_dtype: dtype of the last gradient; ``None`` for the parameters' own.

    Returns:
        A transformation with the state of the chain.

    References:
        Mokhtari et al., A Unified Analysis of Extra-gradient and Optimistic Gradient Methods for Saddle Point Problems,
        2020.

    >>> import torch, optimfx as fx
    >>> tx = fx.optimistic_gradient_descent(lr=0.1)
    >>> tx.update({"w": torch.tensor([1.0])}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([-0.1000])}
    """
    return chain(scale_by_optimistic_gradient(alpha, beta, state_dtype=state_dtype), scale_by_lr(lr))
