"""Lowers a recording to statements: every torch function is printed as Triton code."""

from __future__ import annotations

import math
from typing import Any

import torch

from optimfx import ops
from optimfx.execution.executors.triton.codegen.op_table import (
    ARITHMETIC,
    COMPARISONS,
    DTYPES,
    FILLS,
    LOGIC,
    POWERS,
    QUOTIENTS,
)
from optimfx.execution.executors.triton.codegen.recording import LoweringError, values_in
from optimfx.execution.program.tape import Call, Value, where


class Printer:
    """The statements of a recording.

    A value that is the same for all elements is a float64 number until it meets elements, as Python's numbers are in
    torch; elements are in the dtype that the rule computes in.

    Args:
        dtype: of elements, as Triton calls it.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.begin: list[str] = []  # statements on uniform values
        self.lines: list[str] = []
        self.uniform: set[int] = set()  # values that are uniform
        self.conditions: set[int] = set()
        self.cast: set[int] = set()  # uniform values already cast to the dtype of elements

    def once(self, name: str, expression: str) -> None:
        """Compute what is the same for all elements of a tensor."""
        self.begin.append(f"{name} = {expression}")

    def scalar(self, index: int, expression: str) -> None:
        """Write a number that is there before the elements are."""
        self.once(f"v{index}", expression)
        self.uniform.add(index)

    def call(self, call: Call, *, exact: bool) -> None:
        """Write a call of a torch function; ``exact`` says whether divisions and roots round as IEEE asks.

        Raises:
            LoweringError: Triton has no word for the function, or not with these arguments.
        """
        name = f"torch.{getattr(call.function, '__name__', call.function)}"
        uniform = call.function in FILLS or all(x.index in self.uniform for x in values_in(call))
        try:
            expression = self.expression(call, uniform, exact=exact)
        except TypeError as error:
            raise LoweringError(f"{name} has no Triton lowering with these arguments: {error}") from error
        if expression is None:
            raise LoweringError(f"{name} has no Triton lowering")
        if uniform:
            self.once(f"v{call.result}", expression)
            self.uniform.add(call.result)
        else:
            self.lines.append(f"v{call.result} = {expression}")
        if call.function in COMPARISONS or call.function in LOGIC:
            self.conditions.add(call.result)

    def expression(self, call: Call, uniform: bool, *, exact: bool) -> str | None:
        """Write a torch function of its arguments; return ``None`` if Triton lacks it."""
        function, args, kwargs = call.function, call.args, call.kwargs
        if function in FILLS:
            return self.operand(FILLS[function](*args, **kwargs), uniform)
        if function is torch.pow:
            return self.power(uniform, exact, *args, **kwargs)
        if function is where:
            return self.choice(uniform, *args, **kwargs)
        if function is ops.cast and uniform:
            return self.operand(args[0], uniform)
        if function in LOGIC:
            return LOGIC[function](*[f"v{x.index}" for x in args])
        word = ARITHMETIC.get(function) or COMPARISONS.get(function)
        operands = [self.operand(x, uniform) for x in args]
        options = {key: self.operand(x, uniform) for key, x in kwargs.items()}
        if function in QUOTIENTS:
            options["exact"] = str(exact)
        return word and word(*operands, **options)

    def power(self, uniform: bool, exact: bool, x: Any, exponent: Any) -> str | None:
        """Write one of the powers that are products and roots, or of numbers at least 0 any."""
        known = isinstance(exponent, (int, float)) and exponent in POWERS
        if uniform and not known:  # a decay to the power of a step
            return f"tl.exp2({self.operand(exponent, uniform)} * tl.log2({self.operand(x, uniform)}))"
        return POWERS[exponent].format(x=self.operand(x, uniform), exact=exact) if known else None

    def choice(self, uniform: bool, condition: Value, x: Any, y: Any) -> str:
        """One value or the other."""
        return f"tl.where(v{condition.index}, {self.operand(x, uniform)}, {self.operand(y, uniform)})"

    def operand(self, x: Any, uniform: bool) -> str:
        """Write an argument as a number for all elements, or beside elements."""
        dtype = "tl.float64" if uniform else self.dtype
        if isinstance(x, (bool, int, float)):
            number = repr(float(x)) if math.isfinite(x) else f'float("{x}")'
            return f"tl.full([], {number}, {dtype})"
        if isinstance(x, torch.dtype) and x in DTYPES:
            return DTYPES[x]
        if isinstance(x, torch.Tensor):
            raise LoweringError("the rule computes with a tensor that is not among its arguments")
        if not isinstance(x, Value):
            raise TypeError(f"{x!r} is not a number")
        if x.index in self.conditions:
            return f"v{x.index}.to({dtype})"
        if uniform or x.index not in self.uniform or self.dtype == "tl.float64":
            return f"v{x.index}"
        if x.index not in self.cast:
            self.cast.add(x.index)
            self.once(f"v{x.index}e", f"v{x.index}.to({self.dtype})")
        return f"v{x.index}e"
