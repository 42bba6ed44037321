"""How long the host is busy with a step on a GPU, by the number of tensors: torch's fused classes beside ours.

Microseconds until a step returns, while the device works; the methods take turns, and the best of several rounds
counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from overhead import ALGORITHMS, LR, Step
from results import path_of, save
from rich.console import Console
from rich.table import Table
from timing import Method, best_of_rounds

import optimfx as fx

TENSORS = (1, 6, 16, 150, 2000)
CLASSES = ("SGD, momentum", "AdamW")
SIZE, STEPS, MAX_NORM = 64, 10, 1.0
CLIPPED = "clip + AdamW"


def parameters(count: int) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.randn(SIZE, device="cuda")) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def pure(tx: fx.GradientTransformation, params: list[torch.nn.Parameter]) -> Step:
    """Steps in place, each on the state of the one before."""
    whole, grads = [p.detach() for p in params], [p.grad for p in params]
    kept = [tx.init(whole)]

    def step() -> None:
        _, kept[0] = fx.step(tx, grads, kept[0], whole, inplace=True)

    return step


def methods_of(algorithm: str, count: int) -> dict[str, Step]:
    """Ours and torch's, by name."""
    if algorithm == CLIPPED:
        tx = fx.chain(fx.clip_by_global_norm(MAX_NORM), fx.adamw(lr=LR))
        params = parameters(count)
        optimizer = torch.optim.AdamW(params, lr=LR, fused=True)

        def clipped() -> None:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
            optimizer.step()

        ours = fx.optim.TransformOptimizer(parameters(count), tx).step
        return {"torch fused": clipped, "class": ours, "pure in place": pure(tx, parameters(count))}
    name, factory, options = ALGORITHMS[algorithm]
    return {
        "torch fused": getattr(torch.optim, name)(parameters(count), lr=LR, **options, fused=True).step,
        "class": getattr(fx.optim, name)(parameters(count), lr=LR, **options).step,
        "pure in place": pure(getattr(fx, factory)(lr=LR, **options), parameters(count)),
    }


class Busy(Method):
    """A method whose time is that of the host alone."""

    def seconds(self) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(STEPS):
            self.step()
        return (time.perf_counter() - begin) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for the rounds of a cell")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    cells = []
    table = Table(title="The host's time for a step, over that of torch fused")
    for head in ("tensors", "algorithm", "torch, µs", "class", "pure in place"):
        table.add_column(head, justify="right")
    for count in TENSORS:
        for algorithm in (*CLASSES, CLIPPED):
            methods = [Busy(name, step) for name, step in methods_of(algorithm, count).items()]
            for method in methods:
                method.seconds()
            best, _ = best_of_rounds(methods, options.rounds, options.budget)
            times = {name: 1e6 * seconds for name, seconds in best.items()}
            cells.append({"algorithm": algorithm, "tensors": count, "microseconds": times})
            reference, *ours = times.values()
            table.add_row(str(count), algorithm, f"{reference:.0f}", *[f"{x / reference:.2f}" for x in ours])
    Console(width=120).print(table)
    save(options.out or path_of("host", device="cuda"), "cuda", cells=cells)


if __name__ == "__main__":
    main()
