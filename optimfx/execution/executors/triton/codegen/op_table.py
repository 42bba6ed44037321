"""The table of torch functions with a Triton lowering: it alone decides which rules have a kernel.

An operand is the name of a Triton value. All operands of an expression are of one dtype, except conditions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from optimfx import ops
from optimfx.execution.program.tape import copy

DTYPES = {
    torch.float64: "tl.float64",
    torch.float32: "tl.float32",
    torch.float16: "tl.float16",
    torch.bfloat16: "tl.bfloat16",
}
"""The dtypes of a tensor; complex numbers are pairs of these."""

HALF = (torch.float16, torch.bfloat16)
"""Half precision: results to which nothing is lost if float32 quotients and roots are off by an ulp or two."""

POWERS = {
    -2: "reciprocal({x} * {x}, {exact})",
    -1: "reciprocal({x}, {exact})",
    -0.5: "reciprocal(sqrt({x}, {exact}), {exact})",
    0.5: "sqrt({x}, {exact})",
    1: "{x}",
    2: "{x} * {x}",
    3: "{x} * {x} * {x}",
}


def _times(alpha: str | None, x: str) -> str:
    return x if alpha is None else f"{alpha} * {x}"


def _addcdiv(base: str, x: str, y: str, exact: str, value: str | None = None) -> str:
    # torch multiplies before it divides; the other order could over- or underflow where torch's does not.
    return f"{base} + div({_times(value, x)}, {y}, {exact})"


def _rounded_stochastically(x: str, dtype: str, seed: str, step: str) -> str:
    at_random = dtype == DTYPES[torch.bfloat16]
    return f"rounded_stochastically({x}, {seed}, {step}, offsets)" if at_random else f"rounded({x}, {dtype})"


ARITHMETIC: dict[Callable[..., object], Callable[..., str]] = {
    copy: lambda x: x,
    torch.add: lambda x, y, alpha=None: f"{x} + {_times(alpha, y)}",
    torch.sub: lambda x, y, alpha=None: f"{x} - {_times(alpha, y)}",
    torch.rsub: lambda x, y, alpha=None: f"{y} - {_times(alpha, x)}",
    torch.mul: lambda x, y: f"{x} * {y}",
    torch.div: lambda x, y, exact: f"div({x}, {y}, {exact})",
    torch.neg: lambda x: f"-{x}",
    torch.reciprocal: lambda x, exact: f"reciprocal({x}, {exact})",
    torch.lerp: lambda start, end, weight: f"lerp({start}, {end}, {weight})",
    torch.addcmul: lambda base, x, y, value=None: f"{base} + {_times(value, x)} * {y}",
    torch.addcdiv: _addcdiv,
    torch.sqrt: lambda x, exact: f"sqrt({x}, {exact})",
    torch.rsqrt: lambda x, exact: f"reciprocal(sqrt({x}, {exact}), {exact})",
    ops.cbrt: lambda x: f"cbrt({x})",
    torch.cos: lambda x: f"tl.cos({x})",
    torch.log: lambda x: f"tl.log({x})",
    torch.floor: lambda x: f"tl.floor({x})",
    torch.abs: lambda x: f"tl.abs({x})",
    torch.sign: lambda x: f"sign({x})",
    torch.maximum: lambda x, y: f"maximum({x}, {y})",
    torch.minimum: lambda x, y: f"minimum({x}, {y})",
    torch.clamp_min: lambda x, min: f"maximum({x}, {min})",
    torch.clamp_max: lambda x, max: f"minimum({x}, {max})",
    ops.rounded: lambda x, dtype: f"rounded({x}, {dtype})",
    ops.rounded_stochastically: _rounded_stochastically,
}
"""Functions of numbers."""

QUOTIENTS = frozenset({torch.div, torch.reciprocal, torch.addcdiv, torch.sqrt, torch.rsqrt})
"""Those of them that are told whether to round as IEEE asks."""

COMPARISONS: dict[Callable[..., object], Callable[..., str]] = {
    torch.gt: lambda x, y: f"{x} > {y}",
    torch.ge: lambda x, y: f"{x} >= {y}",
    torch.lt: lambda x, y: f"{x} < {y}",
    torch.le: lambda x, y: f"{x} <= {y}",
    torch.eq: lambda x, y: f"{x} == {y}",
    torch.ne: lambda x, y: f"{x} != {y}",
}
"""Functions of numbers whose value is a condition."""

LOGIC: dict[Callable[..., object], Callable[..., str]] = {
    torch.bitwise_and: lambda x, y: f"{x} & {y}",
    torch.bitwise_or: lambda x, y: f"{x} | {y}",
}
"""Functions of conditions."""

FILLS: dict[Callable[..., object], Callable[..., float]] = {
    torch.zeros_like: lambda x, **options: 0.0,
    torch.ones_like: lambda x, **options: 1.0,
    torch.full_like: lambda x, value, **options: value,
}
"""Functions whose value is one number for all elements."""
