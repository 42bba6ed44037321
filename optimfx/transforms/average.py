"""Averages of the parameters themselves, beside training."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Decay, DType, GradientTransformation, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class AverageState(NamedTuple):
    step: PyTree  # shape=() per leaf: parameters averaged
    averaged: PyTree  # like the parameters: their average


class Scalars(NamedTuple):
    weight: Scalar  # of the new parameter in the average


def ema_weight(decay: Scalar) -> Scalar:
    return 1 - decay


def swa_weight(step: Scalar) -> Scalar:
    return 1 / step


def init(param: Array) -> tuple[Array]:
    return (param.clone(),)


def ema_scalars(step: Scalar, decay: Scalar) -> Scalars:
    return Scalars(ops.where(step == 1, 1, ema_weight(decay)))


def swa_scalars(step: Scalar) -> Scalars:
    return Scalars(swa_weight(step))


def leaf(base: Array, param: Array, update: Array, averaged: Array, s: Scalars) -> tuple[Array, Array]:
    moved = ops.add(param, update)
    return (update if base is None else moved), ops.lerp(averaged, moved, s.weight)


EMA = Rule(leaf, ema_scalars, init, AverageState, reads_param=lambda s: True)
SWA = Rule(leaf, swa_scalars, init, AverageState, reads_param=lambda s: True)


@factory
def ema_params(decay: Decay = 0.999, *, state_dtype: DType | None = None) -> GradientTransformation:
    r"""Hand the updates on, and keep an exponential moving average of the parameters that they lead to.

    .. math:: a_t = \beta a_{t-1} + (1 - \beta) (\theta_{t-1} + u_t), \qquad a_1 = \theta_0 + u_1

    It must see the final updates, and so comes last in a chain.

    Args:
        decay: :math:`\beta`, in [0, 1).
        state_dtype: dtype of the average; ``None`` for the parameters' own. With bfloat16 parameters and a decay
            near 1, only an average in float32 moves.

    Returns:
        A transformation with state :class:`AverageState`: ``step`` and ``averaged`` (like the parameters, and at first
        equal to them).

    Raises:
        ValueError, TypeError: ``decay`` is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.

    :func:`~optimfx.ema` averages updates instead. :class:`optimfx.optim.swa_utils.AveragedModel` does the same for a
    module. Optax leaves this to the training loop, with ``incremental_update``.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=1.0), fx.ema_params(0.5))
    >>> params = {"w": torch.tensor([8.0])}
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     params, state = fx.step(tx, {"w": torch.ones(1)}, state, params)
    >>> params["w"], state[1].averaged["w"]
    (tensor([5.]), tensor([5.7500]))
    """
    return transformation("ema_params", EMA, state_dtype=state_dtype, decay=decay)


def swa_params(*, state_dtype: DType | None = None) -> GradientTransformation:
    r"""Hand the updates on, and keep the mean of all parameters that they have led to (stochastic weight averaging).

    .. math:: a_t = a_{t-1} + (\theta_{t-1} + u_t - a_{t-1}) / t

    It must see the final updates, and so comes last in a chain.

    Args:
        state_dtype: dtype of the average; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`AverageState`: ``step`` and ``averaged`` (like the parameters, and at first
        equal to them).

    Raises:
        ValueError: at ``update``, no ``params``.

    References:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.

    :class:`optimfx.optim.swa_utils.AveragedModel` does the same for a module.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=1.0), fx.swa_params())
    >>> params = {"w": torch.tensor([8.0])}
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     params, state = fx.step(tx, {"w": torch.ones(1)}, state, params)
    >>> params["w"], state[1].averaged["w"]
    (tensor([5.]), tensor([6.]))
    """
    return transformation("swa_params", SWA, state_dtype=state_dtype)
