"""Directions of algorithms that look at the sign of a gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimfx.core import DType, GradientTransformation, Hyper, factory
from optimfx.rules.lion import lion
from optimfx.rules.rprop import rprop
from optimfx.rules.signsgd import signsgd
from optimfx.transforms.direction import direction_of


def scale_by_sign() -> GradientTransformation:
    r"""Replace updates by the sign of every element: the direction of :func:`~optimfx.signsgd`.

    .. math:: g \to \operatorname{sgn}(g)

    Returns:
        A transformation with state :class:`~optimfx.rules.sgd.SGDState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_sign()
    >>> tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([ 1., -1.])}
    """
    return direction_of(signsgd(), "scale_by_sign")


@factory
def scale_by_lion(
    betas: tuple[Hyper, Hyper] = (0.9, 0.99),
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.lion`.

    .. math:: g_t \to \operatorname{sgn}(\beta_1 m_{t-1} + (1 - \beta_1) g_t)

    Args:
        betas: weights of the average in the direction and in itself, each in [0, 1).

    Returns:
        A transformation with state :class:`~optimfx.rules.lion.LionState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_lion()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1., 1.])
    """
    algorithm = lion(betas=betas, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_lion")


@factory
def scale_by_rprop(
    lr: Hyper = 1e-2,
    etas: tuple[Hyper, Hyper] = (0.5, 1.2),
    step_sizes: tuple[Hyper, Hyper] = (1e-6, 50.0),
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.rprop`: steps uphill, each of a size of its own.

    .. math:: g_t \to \eta_t \operatorname{sgn}(g_t)

    Args:
        lr: the sizes at first, at least 0, in parameter units.
        etas: factors of a size after the sign has changed, in (0, 1), and after it has not, above 1.
        step_sizes: the least and the greatest size, in parameter units.

    Returns:
        A transformation with state :class:`~optimfx.rules.rprop.RpropState`.

    Optax 0.2 gives each step one call late.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_rprop()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([0.0100, 0.0100])
    """
    update: Any = rprop(lr, etas, step_sizes, maximize=True, state_dtype=state_dtype).update
    direction: GradientTransformation = replace(update, name="scale_by_rprop").as_transformation()
    return direction
