"""Ascent."""

from __future__ import annotations

from dataclasses import replace

from optimfx.core import GradientTransformation, Scalar
from optimfx.execution import transformation
from optimfx.transforms.scale import SCALE, Scale


def scalars(step: Scalar | None) -> Scale:
    return Scale(-1)


NEGATE = replace(SCALE, scalars=scalars)


def maximize() -> GradientTransformation:
    """Negate the gradients, to maximize the objective: the first link of a chain.

    Factories take ``maximize=True`` for the same.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.maximize(), fx.sgd(lr=0.1))
    >>> params = {"w": torch.tensor([1.0])}
    >>> fx.step(tx, {"w": torch.tensor([2.0])}, tx.init(params), params)[0]
    {'w': tensor([1.2000])}
    """
    return transformation("maximize", NEGATE)
