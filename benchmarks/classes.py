"""The classes of torch.optim beside those of optimfx.optim and the pure step, by algorithm, workload and dtype.

All methods of a cell take turns in one process and the best of several rounds counts; read the ratios, not the times.
It writes a JSON file and a chart beside it. Run it with ``make bench``, or a part of it with
``python benchmarks/classes.py --workloads tiny1000 --algorithms Adam RMSprop --dtypes float32``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path

from algorithms import ALGORITHMS, Algorithm
from cells import Cell, gradients, measure
from charts import draw
from results import path_of, save
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tables import memory_table, summary_table, time_table
from workloads import DTYPES, WORKLOADS

# One large tensor is where memory can be told: it is neither small beside the process, nor in the allocator's cache.
MEMORY = "one25M"


def run(
    workloads: list[str], dtypes: list[str], algorithms: list[Algorithm], rounds: int, budget: float, console: Console
) -> list[Cell]:
    """Every cell; what was measured is shown as soon as a workload is done."""
    cells: list[Cell] = []
    columns = TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(workloads) * len(dtypes) * len(algorithms))
        for workload, dtype in itertools.product(workloads, dtypes):
            grads = gradients(WORKLOADS[workload], dtype)
            part: list[Cell] = []
            for algorithm in algorithms:
                progress.update(task, description=f"{workload}, {dtype}, {algorithm.name}")
                cell = measure(algorithm, grads, rounds, budget, memory=workload == MEMORY)
                if cell is not None:
                    where = {"workload": workload, "dtype": dtype, "algorithm": algorithm.name}
                    part.append({**where, "elementwise": algorithm.elementwise, **cell})
                progress.advance(task)
            if part:
                console.print(time_table(part, f"{workload}, {dtype}"))
            cells += part
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=25, help="at the most, for each cell")
    parser.add_argument("--budget", type=float, default=1.2, help="seconds for the rounds of a cell")
    parser.add_argument("--out", type=Path, default=path_of("classes"), help="the JSON file; the chart goes beside it")
    options = parser.parse_args()

    # Wide enough for every column, wherever it is printed.
    console = Console(width=max(Console().width, 160))
    algorithms = [ALGORITHMS[name] for name in options.algorithms]
    with tempfile.TemporaryDirectory() as cold:
        # Nothing compiled before, so that a first step counts as one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cold
        cells = run(options.workloads, options.dtypes, algorithms, options.rounds, options.budget, console)
    if any(cell["peak_extra_percent"] for cell in cells):
        console.print(memory_table(cells))
    console.print(summary_table(cells))
    for cell in cells:
        for method, reason in cell["missing"].items():
            console.print(f"{cell['algorithm']}, {cell['workload']}, {cell['dtype']}: no {method}: {reason}")
    save(options.out, cells=cells)
    picture = options.out.with_suffix(".png")
    draw(cells, picture)
    console.print(f"{options.out}\n{picture}", soft_wrap=True)


if __name__ == "__main__":
    main()
