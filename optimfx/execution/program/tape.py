"""Records a rule once, and prints it as a function that reuses buffers, as one would write by hand.

Called, it neither allocates nor copies what it can write at its place: its torch functions get ``out=`` the parameter,
a slot or a scratch buffer. The numbers of the step are its arguments, so that one recording serves every step.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.core.types import Array, Key
from optimfx.execution.program.operators import Operators


class Call(NamedTuple):
    """A torch function, its arguments, in which a :class:`Value` stands for a tensor, and its result."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    result: int


class Value(Operators):
    """A stand-in for a tensor of the recording."""

    def __init__(self, tape: Tape, index: int) -> None:
        self.tape = tape
        self.index = index

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Value:
        tape = next(a.tape for a in args if isinstance(a, cls))
        return tape.call(func, args, kwargs or {})


@dataclass
class Tape:
    """The calls of a rule, in order.

    Attributes:
        calls: what was called.
        values: how many values there are.
        numbers: how many numbers the step gives.
        fixed: whether the rule has looked at the value of a number, so that the calls hold for these numbers only.
        vectors: whether a value may stand where a torch function takes a number: then a product is recorded before.
    """

    calls: list[Call] = field(default_factory=list)
    values: int = 0
    numbers: int = 0
    fixed: bool = False
    vectors: bool = False

    def value(self) -> Value:
        """Add a value."""
        self.values += 1
        return Value(self, self.values - 1)

    def next_number(self, value: float) -> Number:
        """Return the next of the numbers that the step gives."""
        self.numbers += 1
        return Number(value, f"s{self.numbers - 1}", self)

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Value:
        """Record a call."""
        weight = next((name for name in ("alpha", "value") if isinstance(kwargs.get(name), Value)), None)
        if self.vectors and weight:
            base, x, *others = args
            others = [self.call(torch.mul, [x, kwargs[weight]], {}), *others]
            return self.call(function, [base, *others], {})
        result = self.value()
        self.calls.append(Call(_OUT_VARIANTS.get(function, function), args, kwargs, result.index))
        return result


class Number(float):
    """A number of the step, which says how it was computed: a rule's arithmetic on numbers is recorded as Python.

    For all else it is its value; a rule that looks at that (compares it, say) is recorded for this value alone.
    """

    text: str
    tape: Tape

    def __new__(cls, value: float, text: str, tape: Tape) -> Number:
        number = super().__new__(cls, value)
        number.text = text
        number.tape = tape
        return number

    def __neg__(self) -> Number:
        return Number(-float(self), f"(-{self.text})", self.tape)

    def __bool__(self) -> bool:
        self.tape.fixed = True
        return float(self) != 0


def _computed(symbol: str, compute: Callable[[Any, Any], Any], swapped: bool) -> Callable[..., Any]:
    def method(self: Number, other: Array) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        pair = (other, self) if swapped else (self, other)
        words = [x.text if isinstance(x, Number) else f"({x!r})" for x in pair]
        return Number(compute(*map(float, pair)), f"({words[0]} {symbol} {words[1]})", self.tape)

    return method


def _looked_at(compare: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    def method(self: Number, other: Array) -> bool:
        self.tape.fixed = True
        return compare(float(self), other)

    return method


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}.items():
    setattr(Number, f"__{_name}__", _computed(_symbol, getattr(operator, _name), swapped=False))
    setattr(Number, f"__r{_name}__", _computed(_symbol, getattr(operator, _name), swapped=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Number, f"__{_name}__", _looked_at(getattr(operator, _name)))


def copy(x: Tensor, out: Tensor) -> Tensor:
    """Copy a value, in the dtype of ``out``."""
    return out.copy_(x)


def where(condition: Tensor, x: Any, y: Any, out: Tensor) -> Tensor:
    """One or the other; numbers are in the dtype of ``out``."""
    return torch.where(
        condition, *[torch.as_tensor(value, dtype=out.dtype, device=out.device) for value in (x, y)], out=out
    )


_COPIES: dict[Key, Callable[..., Any]] = {torch.clone: copy, copy: copy, torch.where: where}
_OUT_VARIANTS = _COPIES | {
    function: function
    for function in (
        *(torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.pow, torch.reciprocal, torch.lerp),
        *(torch.addcmul, torch.addcdiv, torch.sqrt, torch.rsqrt, torch.abs, torch.sign),
        *(torch.maximum, torch.minimum, torch.clamp_min, torch.clamp_max),
    )
}
"""Functions that can write their result, in the dtype that the rule computes in, to a given place."""
_WRITING = frozenset(_OUT_VARIANTS.values())


class Kernel(NamedTuple):
    """A tape as a Python function."""

    run: Callable[..., None]  # (numbers, inputs, places, scratch), as :func:`print_kernel` was given them
    scratch: int  # how many scratch buffers it needs


def print_kernel(
    tape: Tape,
    inputs: Sequence[Value | None],
    results: Sequence[Value | None],
    direct: Sequence[bool],
    overwrites: Sequence[Value | None],
) -> Kernel:
    """Print a function that makes the tape's calls, with a place for each result.

    Args:
        tape: what to print.
        inputs: the values that it reads.
        results: what is left at the end, or ``None``.
        direct: for each result, whether it may be written where it belongs as soon as it is computed.
        overwrites: for each result, the input that it overwrites, or ``None``.
    """
    outs = [None if value is None else value.index for value in results]
    last = _last_uses(tape.calls, outs)

    def place_of(at: int, call: Call) -> int | None:
        """Return the last place that it may be written to: a result's own, or an input's that is read no more."""
        places = [
            place
            for place, (result, safe, below) in enumerate(zip(outs, direct, overwrites))
            if result == call.result and safe and (below is None or last.get(below.index, -1) <= at)
        ]
        return places[-1] if places else None

    names: dict[str, Any] = {"inf": math.inf, "nan": math.nan}

    def word(x: Any, prefix: str = "c") -> str:
        """How an argument is written: a value, what a number was computed from, or a name that stands for it."""
        if isinstance(x, Value):
            return f"v{x.index}"
        if isinstance(x, Number):
            return x.text
        name = next((name for name, known in names.items() if known is x), f"{prefix}{len(names)}")
        names[name] = x
        return name

    lines = []
    buffers = 0
    free: list[int] = []
    in_buffer: dict[int, int] = {}  # the buffer of each value
    unbuffered: set[int] = set()  # values without a buffer
    placed: dict[int, int] = {}  # the output that each result was written to
    for at, call in enumerate(tape.calls):
        free += [in_buffer.pop(value) for value in list(in_buffer) if last.get(value, at) <= at]
        done = [value for value in unbuffered if last.get(value, at) <= at]
        unbuffered -= set(done)
        given = [word(x) for x in call.args] + [f"{key}={word(x)}" for key, x in call.kwargs.items()]
        if call.function not in _WRITING:
            unbuffered.add(call.result)
        elif (place := place_of(at, call)) is not None:
            placed[call.result] = place
            given.append(f"out=p{place}")
        else:
            if not free:
                free.append(buffers)
                buffers += 1
            in_buffer[call.result] = free.pop()
            given.append(f"out=b{in_buffer[call.result]}")
        lines.append(f"v{call.result} = {word(call.function, 'f')}({', '.join(given)})")
        # Free temporaries that had no buffer before the block ends.
        lines += [f"v{value} = None" for value in done]
    for place, result in enumerate(outs):
        if result is not None and placed.get(result) != place:
            lines.append(f"if p{place} is not None and p{place} is not v{result}: p{place}.copy_(v{result})")
    unpack = [
        [f"s{i}" for i in range(tape.numbers)],
        ["_" if value is None else f"v{value.index}" for value in inputs],
        [f"p{place}" for place in range(len(results))],
        [f"b{buffer}" for buffer in range(buffers)],
    ]
    heads = [f"[{', '.join(to)}] = {of}" for to, of in zip(unpack, ("numbers", "inputs", "places", "scratch"))]
    source = "\n    ".join(["def run(numbers, inputs, places, scratch):", *heads, *lines])
    exec(source, names)
    return Kernel(names["run"], buffers)


def _last_uses(calls: Sequence[Call], results: Sequence[int | None]) -> dict[int | None, int]:
    """For each value the place of the last call that reads it; results are read when all is done."""
    last = {value: len(calls) for value in results}
    for at, call in reversed(list(enumerate(calls))):
        # A function without out= may return an argument, which then stays live as long as the result.
        until = at if call.function in _WRITING else max(at, last.get(call.result, at))
        for arg in call.args:
            if isinstance(arg, Value):
                last[arg.index] = max(until, last.get(arg.index, at))
    return last
