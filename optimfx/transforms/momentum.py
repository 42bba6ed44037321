"""Memory of past updates."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Decay,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Real,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation
from optimfx.rules import sgd


def momentum_init(param: Array, decay: Hyper) -> tuple[Array]:
    return sgd.init(param, decay)


def momentum_scalars(step: Scalar, decay: Scalar, dampening: Scalar, nesterov: bool) -> sgd.Scalars:
    return sgd.scalars(step, -1.0, decay, dampening, weight_decay=0.0, nesterov=nesterov, sign=False)


MOMENTUM = Rule(sgd.leaf, momentum_scalars, momentum_init, sgd.SGDState)


@factory
def momentum(
    decay: NonNegative, dampening: Real = 0.0, nesterov: bool = False, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Add up the updates, forgetting old ones: :math:`b_t = \mu b_{t-1} + (1 - \tau) u_t`, with :math:`b_1 = u_1`.

    This is :func:`~optimfx.sgd` without its learning rate and sign. :func:`ema` averages instead.

    Args:
        decay: :math:`\mu \ge 0`.
        dampening: :math:`\tau`, kept out of each later update.
        nesterov: give :math:`u_t + \mu b_t`.

    Returns:
        A transformation with state :class:`~optimfx.rules.sgd.SGDState`.

    References:
        Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.

    Optax calls it ``trace``, and has no dampening.

    >>> import torch, optimfx as fx
    >>> tx = fx.momentum(0.5)
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for _ in range(3):
    ...     updates, state = tx.update({"w": torch.ones(1)}, state)
    >>> updates["w"]
    tensor([1.7500])
    """
    return transformation(
        "momentum", MOMENTUM, state_dtype=state_dtype, decay=decay, dampening=dampening, nesterov=nesterov
    )


class EMAState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: the average


class Scalars(NamedTuple):
    weight: Scalar  # 1 - decay
    correction: Scalar


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def scalars(step: Scalar, decay: Scalar, debias: bool) -> Scalars:
    return Scalars(1 - decay, 1 / (1 - decay**step) if debias else 1)


def leaf(base: Array, param: Array, update: Array, exp_avg: Array, s: Scalars) -> tuple[Array, Array]:
    exp_avg = ops.lerp(exp_avg, update, s.weight)
    return ops.add(base, exp_avg, alpha=s.correction), exp_avg


EMA = Rule(leaf, scalars, init, EMAState)


@factory
def ema(decay: Decay, debias: bool = True, *, state_dtype: DType | None = None) -> GradientTransformation:
    r"""Average the updates: :math:`m_t = \beta m_{t-1} + (1 - \beta) u_t`, divided by :math:`1 - \beta^t` to debias.

    Args:
        decay: :math:`\beta`, in [0, 1).
        debias: make up for the zeros that the average begins with.

    Returns:
        A transformation with state :class:`EMAState`: ``step`` and ``exp_avg`` (like the parameters).

    Raises:
        ValueError, TypeError: ``decay`` is out of range or not a scalar.

    >>> import torch, optimfx as fx
    >>> tx = fx.ema(0.9)
    >>> updates, state = tx.update({"w": torch.tensor([3.0])}, tx.init({"w": torch.zeros(1)}))
    >>> updates["w"], state.exp_avg["w"]
    (tensor([3.]), tensor([0.3000]))
    """
    return transformation("ema", EMA, state_dtype=state_dtype, decay=decay, debias=debias)
