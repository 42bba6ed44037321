"""A rule recorded once and played on block after block, into buffers that are there already.

Played, a rule neither allocates nor copies what it can write at its place: its torch functions are called with ``out=``
the parameter, a slot or a scratch buffer, as someone would write the loop by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.execution.operators import Operators


class Call(NamedTuple):
    """A torch function, its arguments, in which a :class:`Value` stands for a tensor, and its result."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    result: int


class Value(Operators):
    """What a tensor will be when the tape is played."""

    def __init__(self, tape: Tape, index: int) -> None:
        self.tape = tape
        self.index = index

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Value:
        tape = next(a.tape for a in args if isinstance(a, cls))
        return tape.call(func, args, kwargs or {})


@dataclass
class Tape:
    """The calls of a rule, in order."""

    calls: list[Call] = field(default_factory=list)
    values: int = 0

    def value(self) -> Value:
        """A new value."""
        self.values += 1
        return Value(self, self.values - 1)

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Value:
        """Record a call."""
        result = self.value()
        self.calls.append(Call(_WITH_OUT.get(function, function), args, kwargs, result.index))
        return result


def copied(x: Tensor, out: Tensor) -> Tensor:
    """A copy, in the dtype of ``out``."""
    return out.copy_(x)


def where(condition: Tensor, x: Any, y: Any, out: Tensor) -> Tensor:
    """One or the other; numbers are in the dtype of ``out``."""
    return torch.where(
        condition, *[torch.as_tensor(value, dtype=out.dtype, device=out.device) for value in (x, y)], out=out
    )


_RENAMED: dict[Any, Callable[..., Any]] = {torch.clone: copied, copied: copied, torch.where: where}
_WITH_OUT = _RENAMED | {
    function: function
    for function in (
        *(torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.pow, torch.reciprocal, torch.lerp),
        *(torch.addcmul, torch.addcdiv, torch.sqrt, torch.rsqrt, torch.abs, torch.sign),
        *(torch.maximum, torch.minimum, torch.clamp_min, torch.clamp_max),
    )
}
"""Functions that can write their result, in the dtype that the rule computes in, to a given place."""
_PLACED = frozenset(_WITH_OUT.values())


class Turn(NamedTuple):
    """A call, and what becomes of its result."""

    call: Call
    place: int | None  # of the result that it is, which it can be written to right away
    buffer: int | None  # of scratch memory, if it is not
    done: Sequence[int]  # values made without a place that nobody needs after this


class Player:
    """A tape with a place for each result.

    Args:
        tape: what to play.
        inputs: the values that it reads.
        results: what is left at the end, or ``None``.
        direct: for each result, whether it may be written where it belongs as soon as it is computed.
        over: for each result, the input that stands at its place, or ``None``.
    """

    def __init__(
        self,
        tape: Tape,
        inputs: Sequence[Value | None],
        results: Sequence[Value | None],
        direct: Sequence[bool],
        over: Sequence[Value | None],
    ) -> None:
        self.inputs = [None if value is None else value.index for value in inputs]
        self.results = [None if value is None else value.index for value in results]
        self.values = tape.values
        last = _last_uses(tape.calls, self.results)

        def place_of(at: int, call: Call) -> int | None:
            """The last place that it may be written to: of a result that it is, over an input that is read no more."""
            places = [
                place
                for place, (result, safe, below) in enumerate(zip(self.results, direct, over))
                if result == call.result and safe and (below is None or last.get(below.index, -1) <= at)
            ]
            return places[-1] if places else None

        self.turns: list[Turn] = []
        self.scratch = 0
        free: list[int] = []
        held: dict[int, int] = {}  # buffers, by the value that is in them
        made: set[int] = set()  # values that are in none
        for at, call in enumerate(tape.calls):
            free += [held.pop(value) for value in list(held) if last.get(value, at) <= at]
            done = [value for value in made if last.get(value, at) <= at]
            made -= set(done)
            place = buffer = None
            if call.function not in _PLACED:
                made.add(call.result)
            elif (place := place_of(at, call)) is None:
                if not free:
                    free.append(self.scratch)
                    self.scratch += 1
                buffer = held[call.result] = free.pop()
            self.turns.append(Turn(call, place, buffer, done))

    def play(self, inputs: Sequence[Tensor | None], places: Sequence[Tensor | None], scratch: Sequence[Tensor]) -> None:
        """Compute the results from the inputs and write them to their places."""
        values: list[Any] = [None] * self.values
        for index, tensor in zip(self.inputs, inputs):
            if index is not None:
                values[index] = tensor
        for (function, args, kwargs, result), place, buffer, done in self.turns:
            given = [values[arg.index] if type(arg) is Value else arg for arg in args]
            if place is not None:
                values[result] = function(*given, **kwargs, out=places[place])
            elif buffer is not None:
                values[result] = function(*given, **kwargs, out=scratch[buffer])
            else:
                values[result] = function(*given, **kwargs)
            for index in done:  # what was allocated for want of a place is given back before the block is through
                values[index] = None
        for index, to in zip(self.results, places):
            if index is not None and to is not None and values[index] is not to:
                to.copy_(values[index])


def _last_uses(calls: Sequence[Call], results: Sequence[int | None]) -> dict[int | None, int]:
    """For each value the place of the last call that reads it; results are read when all is done."""
    last = {value: len(calls) for value in results}
    for at, call in reversed(list(enumerate(calls))):
        # A function that is not given a place may hand back what it was given: then that is in use for as long.
        until = at if call.function in _PLACED else max(at, last.get(call.result, at))
        for arg in call.args:
            if isinstance(arg, Value):
                last[arg.index] = max(until, last.get(arg.index, at))
    return last
