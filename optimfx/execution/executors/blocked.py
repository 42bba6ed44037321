"""Runs a rule block by block, so that temporaries stay in the cache: a CPU's default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimfx.core.types import Array, Key
from optimfx.execution.executors.base import (
    BoundStep,
    Executor,
    symbolic_reason,
    uncut_reason,
)
from optimfx.execution.executors.custom_op import traced
from optimfx.execution.executors.custom_op.op import LAUNCHES, forms_of
from optimfx.execution.executors.custom_op.traced import MIN_LEAVES, op_step
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory import packing
from optimfx.execution.memory.dtypes import compute_dtype
from optimfx.execution.memory.guard import Guard
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.program.specialize import bind_values
from optimfx.execution.program.tape import Kernel, Tape, Value, copy, print_kernel
from optimfx.execution.step import Steps, flat_scalars, has_per_leaf_scalars, split, vectors_of, with_numbers

BLOCK = 1 << 18
"""Elements of a block: fewer, and the calls cost more than the memory traffic that they save; ``make bench`` sweeps
it."""


class Blocked(Executor):
    """Runs elementwise rules in place, one block of the leaves at a time; in a compiled graph, as an op."""

    name = "blocked"
    description = "in cache, block by block"
    traceable = True

    def __init__(self, *, joins: bool = True) -> None:
        self.joins = joins  # whether new slots may share memory, as results of an op may not

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        symbolic = symbolic_reason(steps, leaves)
        if symbolic is None:
            return uncut_reason(steps, leaves)
        if not torch.compiler.is_compiling() or len(leaves.grads) < MIN_LEAVES:
            return symbolic
        columns = [c for c in (leaves.params, leaves.grads, *leaves.slots) if c[0] is not None]
        if any(column[0].is_complex() for column in columns):
            return "complex numbers"
        return uncut_reason(steps, leaves) or traced.unsupported_reason(steps, leaves)

    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        if symbolic_reason(steps, leaves):
            return op_step(self.name, stepping=stepping, inplace=inplace)
        layout = packing.Layout(leaves, stepping=stepping, inplace=inplace, whole=BLOCK, joins=self.joins)
        has_vectors = has_per_leaf_scalars(steps)
        kernels: dict[Key, Kernel] = {}
        spare: list[dict[Key, list[Tensor]]] = []
        leaf_of: dict[int, Tensor] = {}  # the leaf of each element, by the first leaf of a contiguous range

        def run(steps: Steps, numbers: Sequence[Value], leaves: Leaves) -> Results:
            try:
                scratch = spare.pop()
            except IndexError:  # one per thread
                scratch = {}

            vectors = vectors_of(steps) if has_vectors else ()

            def call(row: packing.Row, outs: packing.Row, span: packing.Span) -> None:
                in_place = outs[0] is row[0 if stepping else 1]
                key = (in_place, *[None if t is None else t.dtype for t in row])
                kernel = kernels.get(key)
                if kernel is None:
                    kernel, fixed = _record(steps, row, outs, stepping, in_place)
                    if not fixed:
                        kernels[key] = kernel
                elements, shape = row[1].numel(), row[1].shape
                if vectors:
                    first = span.places[0]
                    if len(span.places) > 1 and first not in leaf_of:
                        leaf_of[first] = _leaf_of(span)
                    index = leaf_of.get(first, first)
                    row = [*row, *[_cast_numbers(layout.dtype, vector)[index].expand(shape) for vector in vectors]]
                if elements <= BLOCK:
                    kernel.run(numbers, row, outs, _buffers(scratch, kernel.scratch, shape, layout.dtype))
                    return
                for begin in range(0, elements, BLOCK):
                    end = min(begin + BLOCK, elements)
                    block = _slice(row, begin, end)
                    own = block[: len(block) - len(vectors)]
                    places = packing.output_columns(own, stepping) if in_place else _slice(outs, begin, end)
                    buffers = _buffers(scratch, kernel.scratch, torch.Size([end - begin]), layout.dtype)
                    kernel.run(numbers, block, places, buffers)

            result = layout.run(call, leaves)
            spare.append(scratch)
            return result

        return run


def _buffers(scratch: dict[Key, list[Tensor]], count: int, shape: torch.Size, dtype: torch.dtype) -> list[Tensor]:
    """So many buffers of this shape: views of the same memory, whatever the shape."""
    found = scratch.get((count, shape))
    if found is None:
        size = shape.numel()
        whole = scratch.get(None, ())
        if len(whole) < count or (whole and whole[0].numel() < size):
            scratch.clear()
            with torch.inference_mode(False):  # they may outlive the inference mode that they are made in
                size = max([size, *[t.numel() for t in whole]])
                whole = scratch[None] = [
                    torch.empty(size, dtype=dtype, device="cpu") for _ in range(max(count, len(whole)))
                ]
        found = scratch[count, shape] = [t[: shape.numel()].view(shape) for t in whole[:count]]
    return found


def _record(steps: Steps, row: packing.Row, outs: packing.Row, stepping: bool, in_place: bool) -> tuple[Kernel, bool]:
    """Record the rules as they run on each block; say whether for these numbers only."""
    tape = Tape(vectors=True)
    dtype = compute_dtype([t for t in row if t is not None])
    inputs = [None if t is None else tape.value() for t in row]
    loaded = [x if t is None or t.dtype == dtype else tape.call(copy, [x], {}) for t, x in zip(row, inputs)]
    param, grad, *slots = loaded
    vectors: list[Value] = []

    def vector(x: Tensor) -> Value:
        vectors.append(tape.value())
        return vectors[-1]

    results = apply_rules(with_numbers(steps, tape.next_number, vector), param, grad, slots, stepping)
    direct = [out is not None and out.dtype == dtype for out in outs]
    below = packing.output_columns(inputs, stepping) if in_place else [None] * len(outs)
    scalars = [x for step in steps for x in flat_scalars(step.scalars) if isinstance(x, Tensor)]
    fixed = tape.fixed or len(vectors) < len(scalars)
    return print_kernel(tape, [*inputs, *vectors], results, direct, below), fixed


def _cast_numbers(dtype: torch.dtype, vector: Tensor) -> Tensor:
    """Cast a vector of numbers to the dtype; leave one of conditions as it is."""
    return vector if vector.dtype is torch.bool else vector.to(dtype)


def _leaf_of(span: packing.Span) -> Tensor:
    """Return the leaf of each element."""
    places, offsets = (torch.tensor(each, device="cpu") for each in span)
    return torch.repeat_interleave(places, offsets.diff(), output_size=span.offsets[-1])


def _slice(tensors: packing.Row, begin: int, end: int) -> packing.Row:
    return [None if t is None else t[begin:end] for t in tensors]


MAX_CACHED = 256
"""Plans of ops that are kept."""

_plans: dict[Key, tuple[Guard, BoundStep]] = {}


def _launch(
    steps: Steps, leaves: Leaves, hyper: Tensor, *, stepping: bool, inplace: bool, members: int
) -> Results | None:
    """Run the blocks of an op."""
    if members > 1:
        first = hyper[..., :1]
        if not torch.equal(hyper, first.expand_as(hyper)):
            return None
        hyper = first.squeeze(-1)
    rows = hyper.tolist()
    columns = [list(column) for column in zip(*rows)] if hyper.dim() > 1 else [rows]
    if columns.count(columns[0]) == len(columns):
        return _run_alike(steps, leaves, columns[0], stepping=stepping, inplace=inplace)
    runs: dict[tuple[float, ...], list[int]] = {}
    for i, column in enumerate(columns):
        runs.setdefault(tuple(column), []).append(i)
    results: list[Array] = [None] * len(columns)
    slots = [[None] * len(columns) for _ in leaves.slots]
    for numbers, run in runs.items():
        out, new = _run_alike(steps, leaves.take(run), numbers, stepping=stepping, inplace=inplace)
        for whole, part in zip((results, *slots), (out, *new)):
            for i, value in zip(run, part):
                whole[i] = value
    return results, slots


def _run_alike(steps: Steps, leaves: Leaves, numbers: Sequence[float], *, stepping: bool, inplace: bool) -> Results:
    """All leaves with the same numbers."""
    left = iter(numbers)
    whole = tuple([bind_values(step, form, left) for step, form in zip(steps, forms_of(steps))])
    static, given = split(whole)
    tensors = [t for column in leaves.columns() for t in column if t is not None]
    key = (static, stepping, inplace, len(tensors), tensors[0].shape)
    guard, run = _plans.get(key, (None, None))
    if guard is None or run is None or not guard.admits(tensors):
        while len(_plans) >= MAX_CACHED:
            _plans.pop(next(iter(_plans)), None)
        run = Blocked(joins=False).bind(whole, leaves, stepping=stepping, inplace=inplace)
        _plans[key] = Guard(tensors), run
    return run(whole, given, leaves)


LAUNCHES["blocked"] = _launch
