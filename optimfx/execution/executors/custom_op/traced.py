"""Steps traced leaves by the custom op: in compiled graphs, under ``vmap`` and ``grad``.

Whoever traces spells which rules the op runs, and the op reads it (``signature``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import tracing
from optimfx.core.types import Array, Column, Value
from optimfx.execution.executors.base import BoundStep
from optimfx.execution.executors.custom_op.op import run_reference
from optimfx.execution.executors.custom_op.signature import encode, kind_code
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.step import Steps, flat_scalars

MIN_LEAVES = 32
"""Leaves of a compiled graph from which on they are one op in it, on a CPU: of fewer, the compiler makes one loop with
what computes the gradients, which runs faster, but it takes a second for every other leaf."""


def is_worth_an_op(leaves: Column) -> bool:
    """Whether there are so many leaves that one op compiles faster than their operations."""
    return len(leaves) >= MIN_LEAVES and all([leaf.is_cpu and leaf.layout is torch.strided for leaf in leaves])


def unsupported_reason(steps: Steps, leaves: Leaves) -> str | None:
    """Why an op cannot stand for a step of these leaves, which may be tracers."""
    compiling = torch.compiler.is_compiling() and (_differentiated(steps, leaves) or tracing.in_derivative())
    if tracing.forward_mode() or compiling:
        return "a derivative that an op does not have"
    return None if all(map(kind_code, _scalars(steps))) else "a scalar that is not one"


def op_step(executor: str, *, stepping: bool, inplace: bool) -> BoundStep:
    """Return the step that has an op run by this executor."""
    return lambda steps, numbers, leaves: _run(executor, steps, leaves, stepping=stepping, inplace=inplace)


def _run(executor: str, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
    """Run the op: return the results, and the new slots by column."""
    word = encode(executor, steps, leaves)
    device = leaves.grads[0].device
    scalars = [x for x in _scalars(steps) if kind_code(x) in ("n", "c")]
    numbers = _numbers(scalars, device) or [torch.zeros(0, dtype=torch.float64, device=device)]
    hyper = _stacked(numbers)
    params, grads = [] if leaves.params[0] is None else list(leaves.params), list(leaves.grads)
    slots = [t for column in leaves.slots if column[0] is not None for t in column]
    if inplace and stepping and torch.compiler.is_compiling():
        torch.ops.optimfx.step_(word, params, grads, slots, hyper)
        return params, [list(column) for column in leaves.slots]
    if _differentiated(steps, leaves):
        how = word, stepping, 1, len(params), len(grads)
        new = list(Differentiable.apply(*how, hyper, *params, *grads, *slots))  # type: ignore[no-untyped-call]
    else:
        new = torch.ops.optimfx.update(word, stepping, params, grads, slots, hyper, 1)
    if inplace:
        for old, value in zip((*(params if stepping else grads), *slots), new):
            old.copy_(value)
        return list(leaves.params if stepping else leaves.grads), [list(column) for column in leaves.slots]
    parts = iter([new[i : i + len(grads)] for i in range(0, len(new), len(grads))])
    return next(parts), [[None] * len(grads) if column[0] is None else next(parts) for column in leaves.slots]


def _numbers(scalars: Sequence[Value], device: torch.device) -> list[Tensor]:
    """Move the scalars to the device; tensors of the host cross in one copy, without a synchronization."""
    apart = [isinstance(x, Tensor) and x.is_cpu and device.type != "cpu" for x in scalars]
    host = [x.to(torch.float64) for x, on_host in zip(scalars, apart) if on_host]
    moved = iter(_stacked(host).to(device, non_blocking=True).unbind() if host else ())
    return [next(moved) if on_host else _number(x, device) for x, on_host in zip(scalars, apart)]


def _number(x: Any, device: torch.device) -> Tensor:
    if isinstance(x, Tensor):
        return x.to(device=device, dtype=torch.float64)
    return torch.full((), x, dtype=torch.float64, device=device)


def _stacked(numbers: Sequence[Tensor]) -> Tensor:
    """One tensor with a row for each: of one number, or of as many as there are members."""
    return torch.stack(torch.broadcast_tensors(*numbers))  # type: ignore[no-untyped-call]


class Differentiable(torch.autograd.Function):
    """The op, differentiated as the rule on tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        word: str, stepping: bool, members: int, first: int, second: int, hyper: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        parts = tensors[:first], tensors[first : first + second], tensors[first + second :]
        return tuple(torch.ops.optimfx.update(word, stepping, *map(list, parts), hyper, members))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *ctx.told, hyper = inputs[:6]
        ctx.save_for_backward(hyper, *inputs[6:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        word, stepping, members, first, second = ctx.told
        hyper, *tensors = ctx.saved_tensors
        parts = [tensors[:first], tensors[first : first + second], tensors[first + second :]]
        _, pull, *_ = torch.func.vjp(lambda *args: run_reference(word, stepping, members, *args), *parts, hyper)
        *into, into_hyper = pull(list(cotangents))
        return (None,) * 5 + (into_hyper, *[t for part in into for t in part])


def _scalars(steps: Steps) -> list[Array]:
    return flat_scalars([step.scalars for step in steps])


def _differentiated(steps: Steps, leaves: Leaves) -> bool:
    """Whether autograd or a transform of ``torch.func`` differentiates any of these."""
    scalars = [x for x in _scalars(steps) if isinstance(x, Tensor)]
    return tracing.requires_autograd(*scalars, *[t for column in leaves.columns() for t in column])
