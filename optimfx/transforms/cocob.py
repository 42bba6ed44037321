"""COCOB. Orabona and Tommasi, Training Deep Networks without Learning Rates Through Coin Betting, 2017."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import Array, DType, GradientTransformation, Hyper, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.core.ranges import Positive
from optimfx.execution import transformation
from optimfx.transforms.scale import scale as scale_updates
from optimfx.transforms.weight_decay import add_decayed_weights


class COCOBState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    init_particles: PyTree  # like the parameters: where they began
    cumulative_gradients: PyTree  # like the parameters: sum of the negative gradients
    scale: PyTree  # like the parameters: the largest absolute gradient
    subgradients: PyTree  # like the parameters: sum of the absolute gradients
    reward: PyTree  # like the parameters: what the bets have won


class Scalars(NamedTuple):
    alpha: Scalar


def init(param: Array, eps: Hyper) -> tuple[Array, ...]:
    zeros = [ops.zeros_like(param) for _ in range(3)]
    return param.clone(), zeros[0], ops.full_like(param, ops.initial(eps)), zeros[1], zeros[2]


def scalars(step: Scalar, alpha: Scalar) -> Scalars:
    return Scalars(alpha)


def leaf(
    base: Array,
    param: Array,
    grad: Array,
    init_particles: Array,
    cumulative_gradients: Array,
    scale: Array,
    subgradients: Array,
    reward: Array,
    s: Scalars,
) -> tuple[Array, ...]:
    size = ops.abs(grad)
    scale = ops.maximum(scale, size)
    subgradients = subgradients + size
    reward = ops.maximum(reward - grad * (param - init_particles), 0)
    cumulative_gradients = cumulative_gradients - grad
    bet = cumulative_gradients / (scale * ops.maximum(subgradients + scale, scale * s.alpha)) * (scale + reward)
    result = ops.add(base, init_particles - param + bet)
    return result, init_particles, cumulative_gradients, scale, subgradients, reward


COCOB = Rule(leaf, scalars, init, COCOBState, reads_param=lambda s: True)


@factory
def scale_by_cocob(
    alpha: NonNegative = 100.0, eps: Positive = 1e-8, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Make of gradients the step of COCOB: each element bets on the outcome of a coin, and has no learning rate.

    .. math::
        L_t &= \max(L_{t-1}, |g_t|), \qquad G_t = G_{t-1} + |g_t|, \qquad
            R_t = \max(R_{t-1} - g_t (\theta_{t-1} - \theta_0), 0), \qquad C_t = C_{t-1} - g_t \\
        u_t &= \theta_0 + \frac{C_t}{L_t \max(G_t + L_t, \alpha L_t)} (L_t + R_t) - \theta_{t-1}

    The result is the update itself: nothing negates it.

    Args:
        alpha: :math:`\alpha \ge 0`, how small the first steps are.
        eps: :math:`L_0 > 0`, in gradient units.

    Returns:
        A transformation with state :class:`COCOBState`.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Orabona and Tommasi, Training Deep Networks without Learning Rates Through Coin Betting, 2017.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_cocob(alpha=4.0), {"w": torch.tensor([2.0])}
    >>> tx.update({"w": torch.tensor([8.0])}, tx.init(params), params)[0]
    {'w': tensor([-0.2500])}
    """
    return transformation("scale_by_cocob", COCOB, state_dtype=state_dtype, alpha=alpha, eps=eps)


@factory
def cocob(
    lr: NonNegative = 1.0,
    alpha: NonNegative = 100.0,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""COCOB: :func:`~optimfx.scale_by_cocob` of gradients with decay, scaled by ``lr``.

    Args:
        lr: :math:`\ge 0`, a factor of the gradients, to which the steps are as good as indifferent.
        alpha: :math:`\ge 0`, how small the first steps are.
        eps: :math:`> 0`, in gradient units.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.

    Returns:
        A transformation with the states of its three links.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Orabona and Tommasi, Training Deep Networks without Learning Rates Through Coin Betting, 2017.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.cocob(alpha=4.0), {"w": torch.tensor([2.0])}
    >>> fx.step(tx, {"w": torch.tensor([8.0])}, tx.init(params), params)[0]
    {'w': tensor([1.7500])}
    """
    bets = scale_by_cocob(alpha, eps, state_dtype=state_dtype)
    return chain(add_decayed_weights(weight_decay), scale_updates(lr), bets)
