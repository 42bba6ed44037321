"""Transformations that are functions of the updates, and remember nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from optimfx.core.transformation import Described, Description, EmptyState, GradientTransformation
from optimfx.core.types import Params, State, Updates

Function: TypeAlias = Callable[[Updates, Params | None], Updates]


def init(params: Params) -> EmptyState:
    """Nothing to remember."""
    return EmptyState()


@dataclass(frozen=True, eq=False)
class Stateless(Described):
    """The ``update`` of a function."""

    name: str
    function: Function

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, State]:
        return self.function(updates, params), state

    def description(self) -> Description:
        return Description(self.name, {"function": self.function})


def stateless(function: Function) -> GradientTransformation:
    """Make a transformation of a function of the updates and the parameters.

    Args:
        function: ``(updates, params) -> updates``, on whole trees; ``params`` is ``None`` where the caller gave none.

    >>> import torch, optimfx as fx
    >>> centralize = fx.stateless(lambda updates, params: {k: u - u.mean() for k, u in updates.items()})
    >>> tx = fx.chain(centralize, fx.scale(-1.0))
    >>> tx.update({"w": torch.tensor([1.0, 3.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([ 1., -1.])}
    """
    return GradientTransformation(init, Stateless("stateless", function))
