"""Which executor is fastest on leaves of which size on a CPU: what the thresholds of ``optimfx.execution`` rest on.

All run the same Adam step in place in one process, in turns, and the best of several rounds counts; read the ratios,
not the times. Run it with ``make bench``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from algorithms import pure_method
from results import path_of, save
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timing import Method, best_of_rounds
from torch import Tensor

import optimfx as fx

ELEMENTS = 1 << 22
LEAVES = 512
REFERENCE = "eager"
NAMES = [name for name in fx.execution.EXECUTORS if name not in ("triton", "batched")]


def method(executor: str, grads: list[Tensor]) -> Method:
    """An Adam step by one executor, in place."""
    params = [torch.zeros_like(grad) for grad in grads]
    return pure_method(executor, fx.adam(), params, grads, within=lambda: fx.execution.use(executor))


def measure(size: int, rounds: int, budget: float) -> dict[str, Any]:
    """Milliseconds of one step over leaves of this size, by executor, and the executor that would be chosen."""
    grads = [torch.randn(size) for _ in range(max(2, min(LEAVES, ELEMENTS // size)))]
    methods = [method(name, grads) for name in NAMES]
    for each in methods:
        each.seconds()  # the first may compile
    best, _ = best_of_rounds(methods, rounds, budget)
    times = {name: 1e3 * seconds for name, seconds in best.items()}
    return {"elements": size, "milliseconds": times, "chosen": fx.explain(fx.adam(), grads)[0].executor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[4**k for k in range(3, 11)], help="elements of a leaf")
    parser.add_argument("--rounds", type=int, default=20, help="at the most, for each size")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for the rounds of a size")
    parser.add_argument("--out", type=Path, default=path_of("executors"), help="the JSON file")
    options = parser.parse_args()

    cells = [measure(size, options.rounds, options.budget) for size in track(options.sizes, description="measuring")]
    ratios = [f"{name} / {REFERENCE}" for name in NAMES if name != REFERENCE]
    table = Table(title="One Adam step in place, CPU")
    for head in ("elements", *(f"{name}, ms" for name in NAMES), *ratios):
        table.add_column(head, justify="right")
    table.add_column("chosen")
    for cell in cells:
        times = cell["milliseconds"]
        over = (f"{times[name] / times[REFERENCE]:.2f}" for name in NAMES if name != REFERENCE)
        table.add_row(f"{cell['elements']:,}", *(f"{times[name]:.2f}" for name in NAMES), *over, cell["chosen"])
    console = Console(width=max(Console().width, 120))
    console.print(table)
    save(options.out, cells=cells)
    console.print(str(options.out), soft_wrap=True)


if __name__ == "__main__":
    main()
