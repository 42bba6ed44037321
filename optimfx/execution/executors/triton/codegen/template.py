"""The kernel's template, for all rules, dtypes and sizes, around the statements of a lowered rule.

A program takes a chunk of one tensor of each column. Which, it finds in tables on the device, so that one launch serves
any number of tensors of any size. Scalars that are numbers on the host are its arguments; tensors are in the hyper
vector.

Norms and sums of whole leaves are measured before: a kernel of the same kind adds up squares, or terms, in each chunk,
block by block, another adds up these sums, and the hyper vector, behind the scalars, has room for both.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from optimfx.execution.executors.triton.codegen.layout import Layout
from optimfx.execution.executors.triton.codegen.lower import Printer
from optimfx.execution.executors.triton.codegen.op_table import DTYPES, HALF
from optimfx.execution.executors.triton.codegen.prelude import INTERPRETED_NARROWED, NARROWED, PRELUDE
from optimfx.execution.executors.triton.codegen.recording import (
    NORM,
    LoweringError,
    Recording,
    operand,
    values_in,
)
from optimfx.execution.executors.triton.codegen.skeleton import BEGIN, CHUNK, HEAD, ONCE, PLACE, REPEATEDLY, TOTAL
from optimfx.execution.program.tape import Call, Value

ARGUMENTS = ("table", "tensor_of", "chunk_of", "numels", "hyper", "width", "tensors", "blocks")
"""The arguments of every kernel; after them come the scalars that are numbers on the host."""


def module(
    names: Sequence[str], recording: Recording, layout: Layout, interpreted: bool, *, stores: bool = True
) -> str:
    """Write the source of a module with the function ``kernel``, and for each stage of measures ``norms_0`` and so on.

    Args:
        names: of the rules.
        recording: what they do.
        layout: of the table.
        interpreted: whether the kernels will be.
        stores: whether there is something to store, and not only to measure.

    Raises:
        LoweringError: Triton has no word for something, or there are norms and sums.
    """
    stages = recording.measures
    parts = [
        HEAD.format(names=" + ".join(map(repr, names)), stages=tuple(map(len, stages)), reads=layout.bytes_read),
        INTERPRETED_NARROWED if interpreted else NARROWED,
        PRELUDE,
        PLACE,
    ]
    for at, stage in enumerate(stages):
        parts += Statements(recording, layout).sums(f"norms_{at}", stage)
    functions = {call.function for stage in stages for call in stage}
    if len(functions) > 1:
        raise LoweringError("a kernel measures norms or sums, not both")
    if stages:
        root = "tl.sqrt" if NORM in functions else ""
        parts.append(TOTAL.format(tensors=recording.tensors, norms=sum(map(len, stages)), root=root))
    if stores:
        parts += Statements(recording, layout).stores("kernel")
    return "".join(parts)


class Statements:
    """The statements of a program: load addresses and scalars, apply the rules to elements, store.

    Args:
        recording: what the rules do.
        layout: of the table.
    """

    def __init__(self, recording: Recording, layout: Layout) -> None:
        self.recording, self.layout = recording, layout
        self.places = {
            call.result: at for at, call in enumerate(call for stage in recording.measures for call in stage)
        }
        self.printer = Printer(DTYPES[layout.compute])

    def stores(self, kernel: str) -> list[str]:
        """Write the kernel that stores the results, where they are not there yet."""
        recording, layout, out_rows = self.recording, self.layout, self.layout.out_rows
        results = dict(zip(layout.written, recording.results))
        stores = {
            c: x for c, x in results.items() if x is not None and c in out_rows and not layout.keeps(c, x, recording)
        }
        exact = [x for c, x in stores.items() if layout.dtypes[c] not in HALF]
        self._compute(list(stores.values()), exact, {out_rows[column]: column for column in stores})
        for column, value in stores.items():
            x, dtype = self.printer.operand(value, uniform=False), layout.dtypes[column]
            stored = x if dtype == layout.compute else f"narrowed({x}, {DTYPES[dtype]})"
            self.printer.lines.append(f"tl.store(a{out_rows[column]} + offsets, {stored}, mask=mask)")
        return self._functions(kernel, ONCE)

    def sums(self, kernel: str, measures: Sequence[Call]) -> list[str]:
        """Write the kernel that stores the sums of what these add up, or of the squares of what they are norms of."""
        of = [operand(call) for call in measures]
        stored = [self.layout.dtypes[column] for column in self.layout.written]
        self._compute(of, [] if set(stored) <= {None, *HALF} else of, {})
        if any(value.index in self.printer.uniform for value in of):
            raise LoweringError("norm() needs a tensor, but the rule passes a scalar")
        partial = "squares" if measures[0].function is NORM else "terms"
        words = [f"{partial}({self.printer.operand(value, uniform=False)}, mask)" for value in of]
        self.printer.lines.append(f"return {', '.join(words)}")
        every = range(len(of))
        return self._functions(
            kernel,
            REPEATEDLY,
            zeros="\n    ".join(f"sum{at} = tl.zeros([BLOCK // 4], tl.float64)" for at in every),
            new=", ".join(f"new{at}" for at in every),
            add="\n        ".join(f"sum{at} += new{at}" for at in every),
            stores="\n    ".join(f"tl.store(sums + {at} * tl.num_programs(0), tl.sum(sum{at}))" for at in every),
        )

    def _functions(self, kernel: str, run: str, **parts: str) -> list[str]:
        """Write the function of the elements, and the kernel that calls it."""
        recording, begun, lines = self.recording, self.printer.begin, self.printer.lines
        names = ", ".join([line.partition(" = ")[0] for line in begun]) or "table"
        arguments = [*ARGUMENTS, *[f"s{at}: tl.int64" for at in range(recording.numbers)]]
        begin = BEGIN.format(
            kernel=kernel,
            arguments=", ".join(arguments),
            unspecialized=[argument.partition(":")[0] for argument in arguments],
            statements="\n    ".join(begun),
            tensors=recording.tensors,
            norms=len(self.places),
        )
        chunk = CHUNK.format(kernel=kernel, names=names, statements="\n    ".join(lines) or "pass")
        return [chunk, begin, run.format(kernel=kernel, names=names, **parts)]

    def _compute(self, targets: Sequence[Value], exact: Sequence[Value], written: dict[int, int]) -> None:
        """Load what these values are made of, and compute them: some of them exactly.

        ``written`` are further rows, and their columns.
        """
        printer, recording, rows = self.printer, self.recording, self.layout.rows
        calls = recording.calls_for(targets)
        wanted = {x.index for x in (*targets, *[x for call in calls for x in values_in(call)])}
        reads = {c: x for c, x in enumerate(recording.columns) if x is not None and x.index in wanted}
        touched = {rows[c]: c for c in reads} | written
        for row, column in sorted(touched.items()):
            dtype = DTYPES[self.layout.dtypes[column]]
            printer.once(f"a{row}", f"column_pointer(table, {row}, tensors, tensor, {dtype}, ALIGN)")
        numbers, tensors = itertools.count(), itertools.count()
        for scalar, on_host in zip(recording.scalars, recording.on_host):
            given = f"float64_of(s{next(numbers)})" if on_host else f"tl.load(hyper + {next(tensors)} * width)"
            if scalar.index in wanted:
                printer.scalar(scalar.index, given)
        for norm, at in self.places.items():
            if norm in wanted:
                printer.scalar(norm, f"tl.load(norms + {at} * tensors)")
        for column, value in reads.items():
            cast = "" if self.layout.dtypes[column] == self.layout.compute else f".to({printer.dtype})"
            printer.lines.append(f"v{value.index} = tl.load(a{rows[column]} + offsets, mask=mask){cast}")
        needed = {call.result for call in recording.calls_for(exact)}
        for call in calls:
            printer.call(call, exact=call.result in needed)
