"""A transformation as what each leaf goes through: rules, and functions of whole trees, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from optimfx.core.transformation import TransformUpdate
from optimfx.core.types import Array, State


class Call(NamedTuple):
    """A rule, or a function of whole trees, and the leaves that go through it."""

    update: TransformUpdate
    state: State
    places: int | None = None  # bit i is set for leaf i; None for all leaves

    def within(self, places: int) -> Call:
        """Restrict the call to these leaves."""
        return self._replace(places=places if self.places is None else self.places & places)


class Lowered(NamedTuple):
    """The calls that a transformation comes to, in turn, and what makes its new state of theirs."""

    calls: list[Call]
    state_of: Callable[[list[State]], State]

    def within(self, places: int) -> Lowered:
        """Restrict the call to these leaves."""
        return self._replace(calls=[call.within(places) for call in self.calls])


def join(parts: Sequence[Lowered], state_of: Callable[[list[State]], State]) -> Lowered:
    """Join the calls of several transformations, one after the other; ``state_of`` makes a state of theirs."""

    def states_of(states: list[State]) -> State:
        mine = []
        begin = 0
        for part in parts:
            end = begin + len(part.calls)
            mine.append(part.state_of(states[begin:end]))
            begin = end
        return state_of(mine)

    return Lowered([call for part in parts for call in part.calls], states_of)


def only(states: list[Array]) -> Any:
    """Return the state of a transformation that is a single call."""
    (state,) = states
    return state
