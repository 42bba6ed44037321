"""Measures for ``BLOCK``, ``SMALL`` and ``PACKED`` of the CPU's executors: how long spans and packed leaves may be.

One RMSprop step in place over the same number of elements, in one process, in turns, and the best of several rounds
counts; read the ratios, not the times. Run it with ``make bench``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
from results import path_of, save
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timing import Method, best_of_rounds

import optimfx as fx
from optimfx.core.link import Link
from optimfx.execution.executors import blocked
from optimfx.execution.executors.base import Executor
from optimfx.execution.executors.blocked import Blocked
from optimfx.execution.executors.compiled import Compiled
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory import packing
from optimfx.execution.step import probe_step, split

ELEMENTS = 1 << 23
BLOCKS = [1 << k for k in range(13, 22)]
LEAVES = [1 << k for k in range(6, 18)]


THRESHOLDS: dict[str, ModuleType] = {"BLOCK": blocked, "SMALL": packing}


def method(name: str, executor: Executor, size: int, **thresholds: int) -> Method:
    """A step over leaves of this size by an executor, with other thresholds."""
    params = [torch.randn(size) for _ in range(min(1000, ELEMENTS // size))]
    grads = [torch.randn(size) for _ in params]
    squares = [torch.zeros(size) for _ in params]
    absent: list[None] = [None] * len(params)
    leaves = Leaves(params, grads, [squares, absent, absent])
    link = fx.rmsprop().update
    assert isinstance(link, Link)
    steps = (probe_step(link),)
    numbers = split(steps)[1]

    def prepare() -> None:
        for threshold, value in thresholds.items():
            setattr(THRESHOLDS[threshold], threshold, value)

    prepare()
    run = executor.bind(steps, leaves, stepping=True, inplace=True)
    return Method(name, lambda: run(steps, numbers, leaves), prepare)


def sweeps(leaves: Sequence[int]) -> Iterator[tuple[str, list[Method]]]:
    """Return the sweeps."""
    yield "elements of a block", [method(f"{size:,}", Blocked(), ELEMENTS, BLOCK=size) for size in BLOCKS]
    for executor in (Blocked(), Compiled()):
        for size in leaves:
            ways = {"alone": 0, "packed": size}
            yield (
                f"{executor.name}, leaves of {size:,}",
                [method(name, executor, size, SMALL=small) for name, small in ways.items()],
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", nargs="+", type=int, default=LEAVES, help="elements of a leaf")
    parser.add_argument("--rounds", type=int, default=20, help="at the most, for each sweep")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for the rounds of a sweep")
    parser.add_argument("--out", type=Path, default=path_of("blocks"), help="the JSON file")
    options = parser.parse_args()

    kept = {name: getattr(module, name) for name, module in THRESHOLDS.items()}
    cells = []
    for title, methods in track(list(sweeps(options.leaves)), description="measuring"):
        for each in methods:
            each.seconds()  # the first makes workspaces, and may compile
        best, _ = best_of_rounds(methods, options.rounds, options.budget)
        cells.append({"sweep": title, "milliseconds": {name: 1e3 * seconds for name, seconds in best.items()}})
    for name, value in kept.items():
        setattr(THRESHOLDS[name], name, value)

    table = Table(title="One RMSprop step in place, CPU, ms")
    table.add_column("sweep")
    table.add_column("by")
    for cell in cells:
        table.add_row(cell["sweep"], ", ".join(f"{name}: {ms:.2f}" for name, ms in cell["milliseconds"].items()))
    console = Console(width=max(Console().width, 200))
    console.print(table)
    save(options.out, cells=cells)


if __name__ == "__main__":
    main()
