"""A functional training step, gradient and optimizer: optimfx beside Optax and TorchOpt, one model and many at once.

All train the same network with AdamW from the same weights on the same batches of digits, in turns in one process, and
must end at the same loss; the best of several rounds counts. Read the ratios, not the times.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from digits import BATCH, WIDTHS, Problem, Run, optax_jit, ours, problem, torchopt
from results import path_of, save
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from timing import Method, best_of_rounds

REFERENCE = "Optax, jit"
MAKERS: dict[str, Callable[[Problem], Run]] = {
    "optimfx, compiled": partial(ours, compiled=True),
    "optimfx, eager": partial(ours, compiled=False),
    "TorchOpt, compiled": partial(torchopt, compiled=True),
    "TorchOpt, eager": partial(torchopt, compiled=False),
    REFERENCE: optax_jit,
}
MODELS = 1, 32


def measure(models: int, steps: int, rounds: int, budget: float, progress: Progress) -> dict[str, Any]:
    """Milliseconds of one step for each method, and why where one is missing."""
    given = problem(models, steps)
    runs: dict[str, Run] = {}
    losses: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, make in progress.track(MAKERS.items(), description=f"models: {models}, compiling"):
        try:
            runs[name] = make(given)
            losses[name] = runs[name]()
        except (ImportError, torch._dynamo.exc.TorchDynamoException) as error:
            runs.pop(name, None)
            missing[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for name, loss in losses.items():
        if not math.isclose(loss, losses[REFERENCE], rel_tol=1e-2):
            raise AssertionError(f"{name} ends at a loss of {loss}, {REFERENCE} at {losses[REFERENCE]}")
    best, done = best_of_rounds([Method(name, run) for name, run in runs.items()], rounds, budget)
    times = {name: 1e3 * seconds / steps for name, seconds in best.items()}
    return {"models": models, "milliseconds": times, "losses": losses, "rounds": done, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, nargs="+", default=MODELS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40, help="at the most")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for the rounds of a number of models")
    parser.add_argument("--out", type=Path, default=path_of("functional"), help="the JSON file")
    options = parser.parse_args()

    console = Console()
    columns = TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        cells = [measure(n, options.steps, options.rounds, options.budget, progress) for n in options.models]
    network = "-".join(map(str, WIDTHS))
    title = f"One step of training, {network} on batches of {BATCH}, AdamW"
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    for cell in cells:
        table.add_column(f"models: {cell['models']}, ms", justify="right")
        table.add_column(f"/ {REFERENCE}", justify="right")
    for name in MAKERS:
        row = []
        for cell in cells:
            times = cell["milliseconds"]
            row += [f"{times[name]:.3g}", f"{times[name] / times[REFERENCE]:.2f}"] if name in times else ["", ""]
        table.add_row(name, *row)
    console.print(table)
    for cell in cells:
        for name, reason in cell["missing"].items():
            console.print(f"models: {cell['models']}, no {name}: {reason}")
    save(options.out, steps=options.steps, batch=BATCH, network=network, cells=cells)
    console.print(str(options.out), soft_wrap=True)


if __name__ == "__main__":
    main()
