"""No change at all."""

from __future__ import annotations

from optimfx.core import Description, EmptyState, GradientTransformation, Params, PyTree, State
from optimfx.core.lowering import Lowered
from optimfx.execution import Lowering


class Identity(Lowering):
    """The ``update`` that calls nothing."""

    def init(self, params: Params) -> EmptyState:
        return EmptyState()

    def lower(self, reference: PyTree, state: State | None) -> Lowered:
        return Lowered([], lambda states: state)

    def description(self) -> Description:
        return Description("identity", {})


def identity() -> GradientTransformation:
    """Hand the updates on as they are.

    >>> import torch, optimfx as fx
    >>> tx = fx.identity()
    >>> tx.update({"w": torch.ones(2)}, tx.init({"w": torch.zeros(2)}))
    ({'w': tensor([1., 1.])}, EmptyState())
    """
    return Identity().as_transformation()
