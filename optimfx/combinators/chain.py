"""Transformations in turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optimfx.combinators.identity import identity
from optimfx.core import Description, GradientTransformation, Params, PyTree, State, check_transformation
from optimfx.core.lowering import Lowered, join
from optimfx.execution import Lowering, lower


@dataclass(frozen=True, eq=False)
class Chain(Lowering):
    """The ``update`` of a chain. In a step, only the last link computes parameters."""

    names: tuple[Any, ...]
    links: tuple[GradientTransformation, ...]
    named: bool

    def init(self, params: Params) -> State:
        return self._pack([link.init(params) for link in self.links])

    def lower(self, reference: PyTree, state: State | None) -> Lowered:
        states = [None] * len(self.links) if state is None else self._states(state)
        return join([lower(link, reference, each) for link, each in zip(self.links, states)], self._pack)

    def description(self) -> Description:
        labels = self.names if self.named else [""] * len(self.links)
        return Description("named_chain" if self.named else "chain", {}, list(zip(labels, self.links)))

    def _pack(self, states: Iterable[State]) -> State:
        return dict(zip(self.names, states)) if self.named else tuple(states)

    def _states(self, state: State) -> list[State]:
        names = (
            tuple(state) if isinstance(state, dict) else tuple(range(len(state))) if isinstance(state, tuple) else ()
        )
        if names != self.names:
            raise ValueError(
                f"a chain of {len(self.links)} links expects a state with the entries {list(self.names)}; got "
                f"{state!r:.200}. Give the state that init or the last update returned."
            )
        return [state[name] for name in self.names]


def chain(*links: GradientTransformation) -> GradientTransformation:
    """Apply transformations in turn, each to what the one before it returned.

    Args:
        links: transformations; without any, the chain is the identity.

    Returns:
        A transformation whose state is the tuple of the links' states.

    Raises:
        TypeError: a link is not a transformation.
        ValueError: at ``update``, the state is not that of this chain.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.clip_by_value(1.0), fx.sgd(lr=0.5))
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> fx.step(tx, {"w": torch.tensor([10.0, 0.2])}, tx.init(params), params)[0]
    {'w': tensor([0.5000, 1.9000])}
    """
    links = links or (identity(),)
    for i, link in enumerate(links):
        check_transformation(f"chain: links[{i}]", link)
    return Chain(tuple(range(len(links))), links, named=False).as_transformation()


def named_chain(*links: tuple[str, GradientTransformation]) -> GradientTransformation:
    """Chain transformations under names: the state is a dict, in which each link's state is found by its name.

    Args:
        links: pairs ``(name, transformation)``.

    Raises:
        TypeError: a link is not a pair, or not a transformation.
        ValueError: a name is given twice.

    >>> import torch, optimfx as fx
    >>> tx = fx.named_chain(("clip", fx.clip_by_value(1.0)), ("sgd", fx.sgd(lr=0.5, momentum=0.9)))
    >>> list(tx.init({"w": torch.zeros(1)}))
    ['clip', 'sgd']
    """
    for i, link in enumerate(links):
        if not isinstance(link, (tuple, list)) or len(link) != 2 or isinstance(link, GradientTransformation):
            raise TypeError(f"named_chain: links[{i}] must be a pair (name, transformation); got {link!r:.200}.")
        check_transformation(f"named_chain: {link[0]!r}", link[1])
    names = tuple(name for name, _ in links)
    if len(set(names)) < len(names):
        raise ValueError(f"the names of a named_chain must differ; got {list(names)}.")
    return Chain(names, tuple(link for _, link in links), named=True).as_transformation()
