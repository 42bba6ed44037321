"""The kernel: one for all rules, dtypes and sizes, around the statements that a rule was lowered to.

A program takes a chunk of one tensor of each column. Which, it finds in tables on the device, so that one launch serves
any number of tensors of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from optimfx.execution.triton.lower import Printer, Recording, used
from optimfx.execution.triton.prelude import INTERPRETED_NARROWED, NARROWED, PRELUDE
from optimfx.execution.triton.words import DTYPES

HEAD = """# {names}

import triton
import triton.language as tl

"""

PLACE = """
@triton.jit
def place(table, column, tensors, tensor, dtype: tl.constexpr, ALIGN: tl.constexpr):
    address = tl.load(table + column * tensors + tensor)
    # Said of the pointer: said of the integer, the hint is lost and every access is of one number.
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), ALIGN)
"""

CHUNK = """

@triton.jit
def chunk(table, tensors, tensor, hyper, width, offsets, mask, ALIGN: tl.constexpr):
    {statements}


@triton.jit(do_not_specialize=["table", "tensor_of", "chunk_of", "numels", "hyper", "width", "tensors"])
def kernel(table, tensor_of, chunk_of, numels, hyper, width, tensors, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    program = tl.program_id(0)
    tensor = tl.load(tensor_of + program)
    begin = tl.load(chunk_of + program).to(tl.int64) * BLOCK
    numel = tl.load(numels + tensor)
    offsets = begin + tl.arange(0, BLOCK)
    hyper += tensor % width
    # A mask, were it there for whole chunks too, would make every access one of a single number.
    if begin + BLOCK <= numel:
        chunk(table, tensors, tensor, hyper, width, offsets, None, ALIGN)
    else:
        chunk(table, tensors, tensor, hyper, width, offsets, offsets < numel, ALIGN)
"""


class Layout(NamedTuple):
    """What a kernel's table lists: columns that it reads, then those that it writes, if they are others."""

    dtypes: Sequence[Any]  # of param, grad, slots; None for what is not kept
    compute: torch.dtype
    stepping: bool
    inplace: bool

    @property
    def written(self) -> list[int]:
        """For each result, the column that it takes after."""
        return [0 if self.stepping else 1, *range(2, len(self.dtypes))]

    @property
    def rows(self) -> dict[int, int]:
        """The row of the table for each column."""
        there = [column for column, dtype in enumerate(self.dtypes) if dtype is not None]
        return {column: row for row, column in enumerate(there)}

    @property
    def out_rows(self) -> dict[int, int]:
        """The row of the table to which each column's new value goes."""
        rows = self.rows
        if self.inplace:
            return rows
        there = [column for column in self.written if column in rows]
        return {column: len(rows) + row for row, column in enumerate(there)}

    def keeps(self, column: int, result: Any, recording: Recording) -> bool:
        """Whether a column already holds what is to be stored there."""
        return self.inplace and result is recording.columns[column]


def module(names: Sequence[str], recording: Recording, layout: Layout, interpreted: bool) -> str:
    """The source of a module with the function ``kernel``."""
    body = "\n    ".join(statements(recording, layout)) or "pass"
    head = HEAD.format(names=" + ".join(map(repr, names)))
    return (
        head
        + (INTERPRETED_NARROWED if interpreted else NARROWED)
        + PRELUDE
        + PLACE
        + CHUNK.replace("{statements}", body)
    )


def statements(recording: Recording, layout: Layout) -> list[str]:
    """What is done to one chunk: columns and scalars are loaded, the rules run, and what they changed is stored."""
    printer, wanted = Printer(DTYPES[layout.compute]), used(recording)
    rows, out_rows = layout.rows, layout.out_rows
    reads = {c: x for c, x in enumerate(recording.columns) if x is not None and x.index in wanted}
    results = dict(zip(layout.written, recording.results))
    stores = {c: x for c, x in results.items() if x is not None and c in out_rows and not layout.keeps(c, x, recording)}
    touched = {rows[c]: c for c in reads} | {out_rows[c]: c for c in stores}
    # Addresses first, then scalars, then elements: so that none of these waits for another's turn.
    for row, column in sorted(touched.items()):
        dtype = DTYPES[layout.dtypes[column]]
        printer.lines.append(f"p{row} = place(table, {row}, tensors, tensor, {dtype}, ALIGN) + offsets")
    for at, scalar in enumerate(recording.scalars):
        if scalar.index in wanted:
            printer.scalar(scalar.index, f"tl.load(hyper + {at} * width)")
    for column, value in reads.items():
        cast = "" if layout.dtypes[column] == layout.compute else f".to({printer.dtype})"
        printer.lines.append(f"v{value.index} = tl.load(p{rows[column]}, mask=mask){cast}")
    for call in recording.calls:
        printer.call(call)
    for column, value in stores.items():
        x, dtype = printer.operand(value, same=False), layout.dtypes[column]
        stored = x if dtype == layout.compute else f"narrowed({x}, {DTYPES[dtype]})"
        printer.lines.append(f"tl.store(p{out_rows[column]}, {stored}, mask=mask)")
    return printer.lines
