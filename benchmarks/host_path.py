"""The host's time for a step on a GPU, measured without one: on a CPU's tensors, with every launch left out.

Ours makes its tables and calls kernels that do nothing; torch's class with ``fused=True`` groups its tensors and calls
a fused kernel that does nothing. What a launch itself costs, which both pay, is in neither time. Tables are copied once
on the host where a GPU's would be copied to pinned memory and on to the device.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from overhead import ALGORITHMS, LR, Step, measure, pure, tensors
from results import path_of, save
from rich.console import Console
from rich.table import Table

import optimfx as fx
from optimfx.execution.executors.triton.runtime import build, tables

TENSORS = (1, 6, 16, 150, 2000)
FUSED = {"SGD, momentum": "_fused_sgd_", "Adam": "_fused_adam_", "AdamW": "_fused_adamw_"}
OURS = ("class", "pure in place")


def idle(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


@contextmanager
def without_launches() -> Iterator[None]:
    """Take a CPU for a GPU whose kernels do nothing."""
    with (
        patch.object(build, "serves", lambda device: True),
        patch.object(build.Kernel, "launch", idle),
        patch.object(tables, "_copy_to", lambda host, where: host.clone()),
        patch.multiple(torch, **dict.fromkeys([*FUSED.values(), "_foreach_add_"], idle)),
    ):
        yield


def methods_of(algorithm: str, count: int) -> dict[str, Step]:
    """Ours and torch's, by name."""
    name, factory, options = ALGORITHMS[algorithm]
    return {
        "class": getattr(fx.optim, name)(tensors(count), lr=LR, **options).step,
        "pure in place": pure(getattr(fx, factory)(lr=LR, **options), count, True),
        "torch fused": getattr(torch.optim, name)(tensors(count), lr=LR, **options, fused=True).step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", nargs="+", type=int, default=list(TENSORS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=path_of("host_path"), help="the JSON file")
    options = parser.parse_args()

    if not build.INSTALLED:
        raise SystemExit("Triton is not installed: there is no host path to measure.")
    torch.set_num_threads(1)
    cells = []
    for count in options.tensors:
        for algorithm in FUSED:
            with without_launches():
                times = measure(methods_of(algorithm, count), count, options.rounds)
            cells.append({"algorithm": algorithm, "tensors": count, "microseconds": times})
    table = Table(title="The host's time for a step on a GPU, launches left out, over that of torch fused")
    for head in ("tensors", "algorithm", "torch, µs", *OURS):
        table.add_column(head, justify="right")
    for cell in cells:
        times = cell["microseconds"]
        ratios = [f"{times[method] / times['torch fused']:.2f}" for method in OURS]
        table.add_row(str(cell["tensors"]), cell["algorithm"], f"{times['torch fused']:.0f}", *ratios)
    Console(width=120).print(table)
    save(options.out, cells=cells)


if __name__ == "__main__":
    main()
