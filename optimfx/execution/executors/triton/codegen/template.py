"""The kernel: one for all rules, dtypes and sizes, around the statements that a rule was lowered to.

A program takes a chunk of one tensor of each column. Which, it finds in tables on the device, so that one launch serves
any number of tensors of any size.

Norms of whole leaves are measured before: a kernel of the same kind adds up the squares in each chunk, another adds up
these sums, and the hyper vector, behind the scalars, has room for both.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimfx.execution.executors.triton.codegen.layout import Layout
from optimfx.execution.executors.triton.codegen.lower import Printer
from optimfx.execution.executors.triton.codegen.op_table import DTYPES
from optimfx.execution.executors.triton.codegen.prelude import INTERPRETED_NARROWED, NARROWED, PRELUDE
from optimfx.execution.executors.triton.codegen.recording import LoweringError, Recording, operand, values_in
from optimfx.execution.program.tape import Call, Value

HEAD = """# {names}

import triton
import triton.language as tl

TURNS = {turns}
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
def {kernel}_chunk(table, tensors, tensor, hyper, width, norms, sums, offsets, mask, ALIGN: tl.constexpr):
    {statements}


@triton.jit(do_not_specialize=["table", "tensor_of", "chunk_of", "numels", "hyper", "width", "tensors"])
def {kernel}(table, tensor_of, chunk_of, numels, hyper, width, tensors, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    program = tl.program_id(0)
    tensor = tl.load(tensor_of + program)
    begin = tl.load(chunk_of + program).to(tl.int64) * BLOCK
    numel = tl.load(numels + tensor)
    offsets = begin + tl.arange(0, BLOCK)
    norms = hyper + {scalars} * width + tensor
    sums = hyper + {scalars} * width + {norms} * tensors + program
    hyper += tensor % width
    # A mask, were it there for whole chunks too, would make every access one of a single number.
    if begin + BLOCK <= numel:
        {kernel}_chunk(table, tensors, tensor, hyper, width, norms, sums, offsets, None, ALIGN)
    else:
        {kernel}_chunk(table, tensors, tensor, hyper, width, norms, sums, offsets, offsets < numel, ALIGN)
"""

TOTAL = """

@triton.jit(do_not_specialize=["hyper", "begins", "width", "tensors", "programs", "first", "stride"])
def total(hyper, begins, width, tensors, programs, first, stride, BLOCK: tl.constexpr):
    tensor = tl.program_id(0)
    norm = tl.program_id(1)
    norms = hyper + {scalars} * width
    sums = norms + {norms} * tensors + norm * programs
    begin = tl.load(begins + tensor * stride)
    end = tl.load(begins + (tensor + 1) * stride)
    squares = tl.zeros([BLOCK], tl.float64)
    while begin < end:
        places = begin + tl.arange(0, BLOCK)
        squares += tl.load(sums + places, mask=places < end, other=0.0)
        begin += BLOCK
    tl.store(norms + (first + norm) * tensors + tensor, tl.sqrt(tl.sum(squares)))
"""


def module(names: Sequence[str], recording: Recording, layout: Layout, interpreted: bool) -> str:
    """The source of a module with the function ``kernel`` and, for each turn of norms, ``norms_0`` and so on."""
    turns = recording.norms
    sizes = {"scalars": len(recording.scalars), "norms": sum(map(len, turns))}
    places = {call.result: at for at, call in enumerate(call for turn in turns for call in turn)}
    parts = [
        HEAD.format(names=" + ".join(map(repr, names)), turns=tuple(map(len, turns))),
        INTERPRETED_NARROWED if interpreted else NARROWED,
        PRELUDE,
        PLACE,
    ]
    for at, turn in enumerate(turns):
        parts.append(_chunks(f"norms_{at}", Statements(recording, layout, places).sums(turn), sizes))
    if turns:
        parts.append(TOTAL.format(**sizes))
    if recording.results:
        parts.append(_chunks("kernel", Statements(recording, layout, places).stores(), sizes))
    return "".join(parts)


def _chunks(kernel: str, lines: Sequence[str], sizes: dict[str, int]) -> str:
    return CHUNK.format(kernel=kernel, statements="\n    ".join(lines) or "pass", **sizes)


class Statements:
    """What is done to one chunk: columns and scalars are loaded, the rules run, and something is stored.

    Args:
        recording: what the rules do.
        layout: of the table.
        places: of the norms, among those of a tensor.
    """

    def __init__(self, recording: Recording, layout: Layout, places: dict[int, int]) -> None:
        self.recording, self.layout, self.places = recording, layout, places
        self.printer = Printer(DTYPES[layout.compute])

    def stores(self) -> list[str]:
        """The results are stored, where they are not there yet."""
        recording, layout, out_rows = self.recording, self.layout, self.layout.out_rows
        results = dict(zip(layout.written, recording.results))
        stores = {
            c: x for c, x in results.items() if x is not None and c in out_rows and not layout.keeps(c, x, recording)
        }
        self._compute(list(stores.values()), {out_rows[column]: column for column in stores})
        for column, value in stores.items():
            x, dtype = self.printer.operand(value, same=False), layout.dtypes[column]
            stored = x if dtype == layout.compute else f"narrowed({x}, {DTYPES[dtype]})"
            self.printer.lines.append(f"tl.store(p{out_rows[column]}, {stored}, mask=mask)")
        return self.printer.lines

    def sums(self, norms: Sequence[Call]) -> list[str]:
        """The sums of the squares of what these are the norms of are stored."""
        of = [operand(call) for call in norms]
        self._compute(of, {})
        if any(value.index in self.printer.same for value in of):
            raise LoweringError("a number has no norm")
        for at, value in enumerate(of):
            square = f"squares({self.printer.operand(value, same=False)}, mask)"
            self.printer.lines.append(f"tl.store(sums + {at} * tl.num_programs(0), {square})")
        return self.printer.lines

    def _compute(self, targets: Sequence[Value], written: dict[int, int]) -> None:
        """Load what these values are made of, and compute them. ``written`` are further rows, and their columns."""
        printer, recording, rows = self.printer, self.recording, self.layout.rows
        calls = recording.calls_for(targets)
        wanted = {x.index for x in (*targets, *[x for call in calls for x in values_in(call)])}
        reads = {c: x for c, x in enumerate(recording.columns) if x is not None and x.index in wanted}
        touched = {rows[c]: c for c in reads} | written
        # Addresses first, then scalars, then elements: so that none of these waits for another's turn.
        for row, column in sorted(touched.items()):
            dtype = DTYPES[self.layout.dtypes[column]]
            printer.lines.append(f"p{row} = place(table, {row}, tensors, tensor, {dtype}, ALIGN) + offsets")
        for at, scalar in enumerate(recording.scalars):
            if scalar.index in wanted:
                printer.scalar(scalar.index, f"tl.load(hyper + {at} * width)")
        for norm, at in self.places.items():
            if norm in wanted:
                printer.scalar(norm, f"tl.load(norms + {at} * tensors)")
        for column, value in reads.items():
            cast = "" if self.layout.dtypes[column] == self.layout.compute else f".to({printer.dtype})"
            printer.lines.append(f"v{value.index} = tl.load(p{rows[column]}, mask=mask){cast}")
        for call in calls:
            printer.call(call)
