"""Compiles every shipped rule and some chains without a GPU, and writes ``docs/kernels.md``.

``make audit`` compiles the kernels ahead of time and writes the table; with ``--check``
it says whether the table is what it would write. It fails if a kernel moves more than its rules read and write, if it
needs memory of its own, or more registers than leave enough threads at work.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from kernel_aot import Compiled, compiled
from kernel_inventory import kernels, source, totals

from optimfx.execution.executors.triton.codegen.generate import norm_source
from optimfx.execution.executors.triton.runtime import build
from optimfx.execution.executors.triton.runtime.launch import BLOCK, MANY_READS, WARPS, block_of

CAPABILITIES = (80, 90, 100)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REGISTERS = 128
"""Registers of a thread, at most: then 16 warps fit on a multiprocessor, which hide the memory's latency."""
SPILLED = 8
"""Bytes of a thread, at most: the compiler stores a pair of registers where that lets another warp run."""
TABLE = Path(__file__).parents[1] / "docs" / "kernels.md"

HEAD = """# What the compiler makes of the kernels

Written by `make audit` with Triton {version}; `make audit CHECK=--check` says whether it still holds.

Rules have their default hyperparameters and step in place; parameters, gradients and state are of one dtype. For each
kernel: the bytes that it reads and writes for an element; the 128-bit loads and stores of a thread, which takes
{elements} elements of a block of {block} (half as many, where an element has more than {many} bytes), and which are as
many as these bytes ask for; and the registers of a thread.
No kernel spills more than {spilled} bytes of registers, and only those that measure norms or sums use shared memory.
`norm` is that of all gradients; the norms of a rule's leaves, and sums over all of them, have a kernel of their own,
which runs before.

| kernel | dtype | reads, bytes | writes, bytes | loads | stores | {archs} |
|---|---|---|---|---|---|{rule}|
"""


class Entry(NamedTuple):
    """One kernel for each of the devices."""

    name: str
    dtype: str
    reads: int  # columns
    writes: int
    made: dict[int, Compiled]
    measures: bool  # norms or sums, across the threads of a program
    block: int  # elements that a program takes at once

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    def complaints(self) -> Iterator[str]:
        """Return what is wrong with it."""
        threads = 32 * WARPS
        loads, stores = (
            columns * self.itemsize * self.block // (16 * threads) for columns in (self.reads, self.writes)
        )
        for capability, found in self.made.items():
            where = f"{self.name}, {self.dtype}, sm_{capability}"
            if (found.loads, found.stores) != (loads, stores):
                yield f"{where}: {found.loads} loads and {found.stores} stores of 128 bits, not {loads} and {stores}"
            if found.spilled > SPILLED or (found.shared and not self.measures):
                yield f"{where}: {found.spilled} bytes of stack and spilled registers, {found.shared} of shared memory"
            if found.registers > REGISTERS:
                yield f"{where}: {found.registers} registers, more than {REGISTERS}"

    def cells(self) -> list[str]:
        """Its row of the table."""
        first = next(iter(self.made.values()))
        numbers = (self.reads * self.itemsize, self.writes * self.itemsize, first.loads, first.stores)
        registers = [found.registers for found in self.made.values()]
        return [f"`{self.name}`", self.dtype, *map(str, (*numbers, *registers))]


def entries(capabilities: list[int], dtypes: list[str]) -> Iterator[Entry]:
    """Every kernel, compiled."""
    for name, links in kernels().items():
        for dtype in dtypes:
            if links[0].rule.totals:
                yield from entries_of(f"{name}: sums", totals(links[0], DTYPES[dtype]), dtype, capabilities)
            yield from entries_of(name, source(links, DTYPES[dtype]), dtype, capabilities)
    for dtype in dtypes:
        yield from entries_of("norm", norm_source(DTYPES[dtype]), dtype, capabilities)


def entries_of(name: str, text: str, dtype: str, capabilities: list[int]) -> Iterator[Entry]:
    """The kernels of one source, compiled."""
    parts = re.findall(r"^def (\w+)_chunk(.*?)@", text, re.MULTILINE | re.DOTALL)
    for function, body in parts:
        made = {capability: compiled(text, capability, function) for capability in capabilities}
        measures = function != "kernel"
        title = f"{name}: norms" if measures and len(parts) > 1 else name
        block = block_of(build.namespace(text)["READS"])
        yield Entry(title, dtype, body.count("tl.load(a"), body.count("tl.store(a"), made, measures, block)


def head(capabilities: list[int]) -> str:
    """The page, up to the first row."""
    import triton

    archs = " | ".join(f"registers, sm_{capability}" for capability in capabilities)
    elements, rule = BLOCK // (32 * WARPS), "|".join("---" for _ in capabilities)
    return HEAD.format(
        version=triton.__version__,
        elements=elements,
        block=BLOCK,
        many=MANY_READS,
        spilled=SPILLED,
        archs=archs,
        rule=rule,
    )


def differences(found: list[Entry], capabilities: list[int], dtypes: list[str]) -> Iterator[str]:
    """Where the table is not what was found, as far as that goes; another Triton may take other registers."""
    page = TABLE.read_text()
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    titles, *rows = [[cell.strip() for cell in line] for line in lines]
    wanted = [i for i, title in enumerate(titles) if not title.startswith("registers")]
    if page.startswith(head(list(CAPABILITIES))):
        wanted += [titles.index(f"registers, sm_{capability}") for capability in capabilities]
    stand = [" | ".join(row[i] for i in wanted) for row in rows if row[1] in dtypes]
    made = [" | ".join(entry.cells()[: len(wanted)]) for entry in found]
    yield from (f"{TABLE.name} has, but should not: {line}" for line in stand if line not in made)
    yield from (f"{TABLE.name} lacks: {line}" for line in made if line not in stand)


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    parser.add_argument("--capability", type=int, nargs="+", choices=CAPABILITIES, default=list(CAPABILITIES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    options = parser.parse_args()
    found = list(entries(options.capability, options.dtype))
    wrong = [complaint for entry in found for complaint in entry.complaints()]
    if options.check:
        wrong += differences(found, options.capability, options.dtype)
    else:
        rows = [f"| {' | '.join(entry.cells())} |\n" for entry in found]
        TABLE.write_text(head(options.capability) + "".join(rows))
    print("\n".join(wrong) or f"{len(found)} kernels as they should be")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
