"""Transformations in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimfx.core import (
    GradientTransformation,
    Locality,
    Outline,
    Params,
    PyTree,
    Row,
    Rule,
    State,
    Stepper,
    Updates,
    check_transformation,
    tree,
)
from optimfx.core.stateless import identity
from optimfx.execution import RuleUpdate, check_link, explain_link, explain_rules, has_kernels, run
from optimfx.update import run_link


@dataclass(frozen=True, eq=False)
class Chain(Stepper):
    """The ``update`` of a chain. When it steps, only the last link meets the parameters."""

    names: tuple[Any, ...]
    links: tuple[GradientTransformation, ...]
    named: bool
    _has_norms: bool = field(init=False)
    _elementwise: list[tuple[int, int]] = field(init=False)
    _measured: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        rules = [link.update.rule if isinstance(link.update, RuleUpdate) else None for link in self.links]
        derived = {
            "_has_norms": any(rule and rule.locality is Locality.NORM for rule in rules),
            "_elementwise": _joined(rules, norms=False),
            "_measured": _joined(rules, norms=True),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def init(self, params: Params) -> State:
        return self._pack([link.init(params) for link in self.links])

    def _pack(self, states: Iterable[State]) -> State:
        return dict(zip(self.names, states)) if self.named else tuple(states)

    def run(
        self, updates: Updates, state: State, params: Params | None, *, stepping: bool, inplace: bool, **extra: Any
    ) -> tuple[PyTree, State]:
        passes = self._passes(updates)
        if inplace and len(passes) > 1:  # one checks what it is given before it writes
            self.check(updates, state, params)
        before, after = self._states(state), []
        for begin, end in passes:
            meets = {"stepping": stepping and end == len(self.links), "inplace": inplace}
            if end - begin > 1:
                updates, states = run(self._rules(begin, end), updates, before[begin:end], params, **meets)
                after += states
            else:
                updates, one = run_link(self.links[begin], updates, before[begin], params, **meets, **extra)
                after.append(one)
        return updates, self._pack(after)

    def _rules(self, begin: int, end: int) -> list[RuleUpdate]:
        return [link.update for link in self.links[begin:end] if isinstance(link.update, RuleUpdate)]

    def _passes(self, updates: Updates | None = None) -> list[tuple[int, int]]:
        """From where to where links run as one: elementwise rules, and those that kernels for these updates measure."""
        return self._measured if self._has_norms and has_kernels(tree.flatten(updates)[0]) else self._elementwise

    @property
    def spares_updates(self) -> bool:  # type: ignore[override]
        """Whether a step in place leaves the updates as they are: in one pass, none is stored on the way."""
        return len(self._passes()) == 1 and all(isinstance(link.update, RuleUpdate) for link in self.links)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        for link, before in zip(self.links, self._states(state)):
            check_link(link, updates, before, params)

    def explain(self, params: Params) -> list[Row]:
        rows = []
        for begin, end in self._passes(params):
            if end - begin > 1:
                rows += explain_rules(self._rules(begin, end), params)
            else:
                rows += explain_link(self.links[begin], params)
        return rows

    def outline(self) -> Outline:
        labels = self.names if self.named else [""] * len(self.links)
        return Outline("named_chain" if self.named else "chain", {}, list(zip(labels, self.links)))

    def _states(self, state: State) -> list[State]:
        names = (
            tuple(state) if isinstance(state, dict) else tuple(range(len(state))) if isinstance(state, tuple) else ()
        )
        if names != self.names:
            raise ValueError(
                f"the state of a chain of {len(self.links)} links has the entries {list(self.names)}; got "
                f"{state!r:.200}. Give the state that init or the last update returned."
            )
        return [state[name] for name in self.names]


def _joined(rules: Sequence[Rule | None], *, norms: bool) -> list[tuple[int, int]]:
    """From where to where rules run as one: elementwise ones, and with ``norms`` those that need norms of leaves.

    Only the first may depend on the norm of all updates.
    """
    passes: list[tuple[int, int]] = []
    joins = False
    for i, rule in enumerate(rules):
        can_join = rule is not None and (rule.elementwise or (norms and rule.locality is Locality.NORM))
        begin = passes.pop()[0] if joins and can_join and rule and not rule.needs_global_norm else i
        passes.append((begin, i + 1))
        joins = can_join
    return passes


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
    return Chain(tuple(range(len(links))), links, named=False).transformation()


def named_chain(*links: tuple[str, GradientTransformation]) -> GradientTransformation:
    """A :func:`chain` whose state is a dict, so that each link's state can be found by its name.

    Args:
        links: pairs ``(name, transformation)``.

    Raises:
        TypeError: a link is no pair, or no transformation.
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
    return Chain(names, tuple(link for _, link in links), named=True).transformation()
