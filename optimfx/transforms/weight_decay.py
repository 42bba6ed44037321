"""Weight decay as a link."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.combinators.partition import masked
from optimfx.core import Array, GradientTransformation, NonNegative, Rule, Scalar, factory
from optimfx.core.types import PyTree
from optimfx.execution import transformation


class Scalars(NamedTuple):
    weight_decay: Scalar


def scalars(step: Scalar | None, weight_decay: Scalar) -> Scalars:
    return Scalars(weight_decay)


def leaf(base: Array, param: Array, update: Array, s: Scalars) -> tuple[Array]:
    return (ops.add(base, ops.add(update, param, alpha=s.weight_decay)),)


WEIGHT_DECAY = Rule(leaf, scalars, reads_param=lambda s: True)


@factory
def add_decayed_weights(weight_decay: NonNegative = 0.0, mask: PyTree | None = None) -> GradientTransformation:
    r"""Add the parameters to the updates: :math:`u \to u + \lambda \theta`.

    Before a preconditioner it is L2 regularisation (torch's ``Adam``); after it, decoupled decay (``AdamW``).

    Args:
        weight_decay: :math:`\lambda \ge 0`.
        mask: decay only these leaves: a tree of bools, or a function from the parameters to one, as in
            :func:`~optimfx.masked`.

    Returns:
        A transformation without state (a step count, when ``weight_decay`` is a schedule).

    Raises:
        ValueError, TypeError: ``weight_decay`` is negative or not a scalar; at ``update``, no ``params``.

    >>> import torch, optimfx as fx
    >>> tx = fx.add_decayed_weights(0.1)
    >>> params = {"w": torch.tensor([10.0, 20.0])}
    >>> tx.update({"w": torch.zeros(2)}, tx.init(params), params)
    ({'w': tensor([1., 2.])}, EmptyState())
    """
    link = transformation("add_decayed_weights", WEIGHT_DECAY, weight_decay=weight_decay)
    return link if mask is None else masked(link, mask)
