"""Zeros in place of updates."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Rule, Scalar
from optimfx.execution import transformation


class NoScalars(NamedTuple):
    pass


def no_scalars(step: Scalar | None) -> NoScalars:
    return NoScalars()


def leaf(base: Array, param: Array, update: Array, s: NoScalars) -> tuple[Array]:
    return (ops.zeros_like(update) if base is None else base,)


ZERO = Rule(leaf, no_scalars)


def set_to_zero() -> GradientTransformation:
    """Replace the updates by zeros: what it is given to stays frozen, even where a gradient is not finite.

    >>> import torch, optimfx as fx
    >>> tx = fx.partition({"train": fx.sgd(lr=0.1), "freeze": fx.set_to_zero()}, {"w": "train", "b": "freeze"})
    >>> params = {"w": torch.ones(1), "b": torch.ones(1)}
    >>> fx.step(tx, params, tx.init(params), params)[0]
    {'w': tensor([0.9000]), 'b': tensor([1.])}
    """
    return transformation("set_to_zero", ZERO)
