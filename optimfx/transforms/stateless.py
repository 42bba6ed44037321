"""Transformations that remember nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from optimfx import ops
from optimfx.base import (
    EmptyState,
    GradientTransformation,
    Outline,
    Params,
    Rule,
    Scalar,
    State,
    Updates,
    transformation,
)

Function: TypeAlias = Callable[[Updates, Params | None], Updates]


def init(params: Params) -> EmptyState:
    return EmptyState()


@dataclass(frozen=True, eq=False)
class Stateless:
    """The ``update`` of a function."""

    name: str
    function: Function

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, State]:
        return self.function(updates, params), state

    def outline(self) -> Outline:
        return Outline(self.name, {"function": self.function})


def stateless(function: Function) -> GradientTransformation:
    """A function of the updates and the parameters as a transformation.

    Args:
        function: ``(updates, params) -> updates``, on whole trees; ``params`` is ``None`` where the caller gave none.

    >>> import torch, optimfx as fx
    >>> centralize = fx.stateless(lambda updates, params: {k: u - u.mean() for k, u in updates.items()})
    >>> tx = fx.chain(centralize, fx.scale(-1.0))
    >>> tx.update({"w": torch.tensor([1.0, 3.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([ 1., -1.])}
    """
    return GradientTransformation(init, Stateless("stateless", function))


def identity() -> GradientTransformation:
    """Hand the updates on as they are.

    >>> import torch, optimfx as fx
    >>> tx = fx.identity()
    >>> tx.update({"w": torch.ones(2)}, tx.init({"w": torch.zeros(2)}))
    ({'w': tensor([1., 1.])}, EmptyState())
    """
    return GradientTransformation(init, Stateless("identity", _unchanged))


def _unchanged(updates: Updates, params: Params | None) -> Updates:
    return updates


class NoScalars(NamedTuple):
    pass


def scalars(step: Scalar | None) -> NoScalars:
    return NoScalars()


def leaf(base: Any, param: Any, update: Any, s: NoScalars) -> tuple[Any]:
    return (ops.zeros_like(update) if base is None else base,)


ZERO = Rule(leaf, scalars)


def set_to_zero() -> GradientTransformation:
    """Replace the updates by zeros: what it is given to stays frozen, even where a gradient is not finite.

    >>> import torch, optimfx as fx
    >>> tx = fx.partition({"train": fx.sgd(lr=0.1), "freeze": fx.set_to_zero()}, {"w": "train", "b": "freeze"})
    >>> params = {"w": torch.ones(1), "b": torch.ones(1)}
    >>> fx.step(tx, params, tx.init(params), params)[0]
    {'w': tensor([0.9000]), 'b': tensor([1.])}
    """
    return transformation("set_to_zero", ZERO)
