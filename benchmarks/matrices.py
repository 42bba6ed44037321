"""The time of a step of Muon: torch's class, ours leaf by leaf, with small matrices in stacks, and as one stack.

ResNet-50's convolutions are matrices of shape (out, in * height * width), which torch is given as such.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from results import path_of, save
from rich.console import Console
from rich.table import Table
from timing import Method, best_of_rounds
from workloads import Shape, resnet50

import optimfx as fx

WIDTH = 128
LAYER = [(WIDTH, WIDTH)] * 4 + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
WORKLOADS: dict[str, list[Shape]] = {
    "100 of 64 x 64": [(64, 64)] * 100,
    "a transformer's 126, width 128": LAYER * 21,
    "ResNet-50's convolutions": [(s[0], math.prod(s[1:])) for s in resnet50() if len(s) == 4],
}


def methods_of(shapes: list[Shape]) -> dict[str, Callable[[], object]]:
    """A step in place of each method, by name."""
    tx = fx.muon()

    def class_of(make: type[torch.optim.Optimizer]) -> Callable[[], object]:
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        return make(params).step

    def pure(*executors: str, params: list[torch.Tensor]) -> Callable[[], object]:
        grads, state = [torch.randn_like(p) for p in params], tx.init(params)

        def step() -> None:
            with fx.execution.use(*executors):
                fx.step(tx, grads, state, params, inplace=True)

        return step

    steps = {
        "torch": class_of(torch.optim.Muon),
        "class": class_of(fx.optim.Muon),
        "leaf by leaf": pure("eager", params=[torch.randn(shape) for shape in shapes]),
        "in stacks": pure(params=[torch.randn(shape) for shape in shapes]),
    }
    if len(set(shapes)) == 1:
        steps["one stack"] = pure(params=[torch.randn(len(shapes), *shapes[0])])
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=path_of("matrices"), help="the JSON file")
    options = parser.parse_args()

    cells = []
    table = Table(title="A step of Muon, ms")
    names = ["torch", "class", "leaf by leaf", "in stacks", "one stack"]
    for head in ("matrices", *names):
        table.add_column(head)
    for workload in options.workloads:
        methods = [Method(name, step) for name, step in methods_of(WORKLOADS[workload]).items()]
        for method in methods:
            method.step()
        best, _ = best_of_rounds(methods, options.rounds, budget=60.0)
        times = {name: 1e3 * seconds for name, seconds in best.items()}
        cells.append({"workload": workload, "milliseconds": times})
        table.add_row(workload, *[f"{times[name]:.1f}" if name in times else "" for name in names])
    Console().print(table)
    save(options.out, cells=cells)


if __name__ == "__main__":
    main()
