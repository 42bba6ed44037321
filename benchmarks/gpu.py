"""Steps on a GPU by algorithm, workload and dtype: torch's ways beside ours, and the bandwidth that they reach.

Times are those of the device, between events; with many tiny tensors, where the host is what takes long, those of the
host until the device is done. All methods of a cell take turns and the best of several rounds counts. The limit is the
bandwidth of a copy: of it, each method reaches the share that its algorithm's least traffic takes of its time. It
writes a JSON file and a chart beside it. Run it with ``make gpu``, or a part of it with
``python benchmarks/gpu.py --workloads llama1b --algorithms Adam --dtypes bfloat16``, which leaves what the file has of
other cells as it is.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from algorithms import Algorithm
from cells import Cell, ratios
from charts import draw
from gpu_methods import ALGORITHMS, METHODS, OURS, makings, traffic
from gpu_timing import Timed, clock_of, copy_bandwidth
from results import load, path_of, save
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tables import device_table
from timing import best_of_rounds
from workloads import DTYPES, ON_A_GPU, Shape, elements

HOST_BOUND = "tiny2000"
COPIED = {"cuda": 1 << 28, "cpu": 1 << 24}
"""Elements of the copy that measures the bandwidth: more than caches hold."""


def parameters(shapes: list[Shape], dtype: torch.dtype, device: str) -> list[Any]:
    """Parameters with fixed gradients."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype, device=device)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def measure(algorithm: Algorithm, workload: str, dtype: str, device: str, limit: float, how: Any) -> Cell | None:
    """The figures of a cell, or None if the algorithm can step no tensor of the workload."""
    shapes = [shape for shape in ON_A_GPU[workload] if algorithm.takes(shape)]
    if not shapes:
        return None
    torch.compiler.reset()
    params = parameters(shapes, DTYPES[dtype], device)
    clock = clock_of(device, host_bound=workload == HOST_BOUND)
    methods: list[Timed] = []
    missing: dict[str, str] = {}
    for name, make in makings(algorithm, params, device):
        if name not in how.methods:
            continue
        try:
            method = Timed(name, make(), clock=clock)
            method.seconds()  # what is compiled, is compiled
        except Exception as error:  # of Triton's compiler, too
            missing[name] = str(error).partition("\n")[0]
            continue
        methods.append(method)
    best, done = best_of_rounds(methods, how.rounds, how.budget)
    moved = traffic(algorithm, DTYPES[dtype])
    shares = {} if moved is None else {name: moved * elements(shapes) / s / limit for name, s in best.items()}
    return {
        "workload": workload,
        "dtype": dtype,
        "algorithm": algorithm.name,
        "elementwise": algorithm.elementwise,
        "milliseconds": {name: 1e3 * seconds for name, seconds in best.items()},
        "share": shares,
        "rounds": done,
        "missing": missing,
    }


def run(options: argparse.Namespace, limit: float, console: Console, keep: Callable[[list[Cell]], None]) -> list[Cell]:
    """Every cell; what was measured is shown, and kept, as soon as a workload is done."""
    cells: list[Cell] = []
    columns = TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        total = len(options.workloads) * len(options.dtypes) * len(options.algorithms)
        task = progress.add_task("", total=total)
        for workload, dtype in itertools.product(options.workloads, options.dtypes):
            part: list[Cell] = []
            for name in options.algorithms:
                progress.update(task, description=f"{workload}, {dtype}, {name}")
                cell = measure(ALGORITHMS[name], workload, dtype, options.device, limit, options)
                part += [] if cell is None else [cell]
                gc.collect()
                if options.device != "cpu":
                    torch.cuda.empty_cache()
                progress.advance(task)
            if part:
                console.print(device_table(part, f"{workload}, {dtype}", METHODS))
            cells += part
            keep(cells)
    return cells


def merged(old: list[Cell], new: list[Cell]) -> list[Cell]:
    """All cells in their usual order; of those that were measured again, the new ones."""
    cells = {_place(cell): cell for cell in (*old, *new)}
    return [cells[place] for place in itertools.product(ON_A_GPU, DTYPES, ALGORITHMS) if place in cells]


def _place(cell: Cell) -> tuple[str, str, str]:
    return cell["workload"], cell["dtype"], cell["algorithm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="or cpu, without what needs a GPU")
    parser.add_argument("--workloads", nargs="+", choices=ON_A_GPU, default=list(ON_A_GPU))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=int, default=20, help="at the most, for each cell")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for the rounds of a cell")
    parser.add_argument("--out", type=Path, help="the JSON file; the chart goes beside it")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU; --device cpu runs what does not need one.")

    console = Console(width=max(Console().width, 160))
    device = torch.device(options.device).type
    limit = copy_bandwidth(options.device, COPIED[device])
    console.print(f"A copy reads and writes {limit / 1e9:.0f} GB/s.")
    out = options.out or path_of("gpu", device=options.device)
    old = (load(out) or {"cells": []})["cells"]

    def keep(new: list[Cell]) -> None:
        save(out, options.device, copy_gigabytes_per_second=limit / 1e9, cells=merged(old, new))

    new = run(options, limit, console, keep)
    cells = merged(old, new)
    for cell in new:
        for method, reason in cell["missing"].items():
            console.print(f"{cell['algorithm']}, {cell['workload']}, {cell['dtype']}: no {method}: {reason}")
    console.print(str(out), soft_wrap=True)
    if any(map(ratios, cells)):  # there is something of torch's to compare with
        picture = out.with_suffix(".png")
        draw(cells, picture, "CPU" if device == "cpu" else torch.cuda.get_device_name(options.device), OURS)
        console.print(str(picture), soft_wrap=True)


if __name__ == "__main__":
    main()
