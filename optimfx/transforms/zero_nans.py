"""Zeros in place of what is not a number."""

from __future__ import annotations

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Rule, Scalar
from optimfx.execution import transformation


def scalars(step: Scalar | None) -> tuple[()]:
    return ()


def leaf(base: Array, param: Array, update: Array, s: tuple[()]) -> tuple[Array]:
    return (ops.add(base, ops.where(update == update, update, ops.zeros_like(update))),)


ZERO_NANS = Rule(leaf, scalars)


def zero_nans() -> GradientTransformation:
    r"""Replace the elements of updates that are not numbers by 0.

    .. math::
        u_i \to 0 \text{ where } u_i \text{ is NaN}, \qquad u_i \to u_i \text{ elsewhere}

    Infinite elements stay, as do the other parts of complex ones. To leave a whole step out, see
    :func:`~optimfx.apply_if_finite`.

    Returns:
        A transformation without state. Optax's keeps for each leaf whether NaN was found;
        :func:`~optimfx.monitor`, before it in a chain, counts them.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.zero_nans(), fx.sgd(lr=1.0))
    >>> params = {"w": torch.zeros(3)}
    >>> fx.step(tx, {"w": torch.tensor([1.0, torch.nan, -2.0])}, tx.init(params), params)[0]
    {'w': tensor([-1.,  0.,  2.])}
    """
    return transformation("zero_nans", ZERO_NANS)
