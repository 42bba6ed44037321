"""The overhead of a step beside its arithmetic: models of few and small tensors, on one thread.

Every row is the time of a step of ours over that of torch's fastest (for-loop, foreach, fused), measured in turns in
one process; the best of several rounds counts. Lion has no class in torch: beside it stands SGD with momentum, which
reads and writes as much. ``clip + AdamW`` is a chain in a ``TransformOptimizer`` beside ``clip_grad_norm_`` and AdamW;
the last rows have as many groups as tensors, each with a rate of its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from results import path_of, save
from rich.console import Console
from rich.table import Table
from timing import Method, best_of_rounds

import optimfx as fx

SHAPES = [(16, 16), (16,), (32, 16), (32,)]
TENSORS = (1, 6, 16, 150, 1000)
GROUPS = 400
ALGORITHMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SGD": ("SGD", "sgd", {}),
    "SGD, momentum": ("SGD", "sgd", {"momentum": 0.9}),
    "Adam": ("Adam", "adam", {}),
    "AdamW": ("AdamW", "adamw", {}),
    "RMSprop": ("RMSprop", "rmsprop", {}),
    "NAdam": ("NAdam", "nadam", {}),
    "Lion": ("Lion", "lion", {}),
}
CLIPPED = "clip + AdamW"
TWINS = {"Lion": ("SGD", {"momentum": 0.9})}
FUSED = ("SGD", "Adam", "AdamW")
LR = 1e-5
Step = Callable[[], object]


def tensors(count: int) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.randn(SHAPES[i % len(SHAPES)])) for i in range(count)]
    for p in params:
        p.grad = 1e-3 * torch.randn_like(p)
    return params


def torchs(
    name: str, options: dict[str, Any], params: Callable[[], Any]
) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """Torch's ways to take the step."""
    make = getattr(torch.optim, name)
    for how in ("for-loop", "foreach", "fused"):
        if how != "fused" or name in FUSED:
            flags = {"foreach": how == "foreach"} if how != "fused" else {"fused": True}
            yield f"torch {how}", make(params(), lr=LR, **options, **flags)


def pure(tx: fx.GradientTransformation, count: int, inplace: bool) -> Step:
    """A step of a dict of tensors."""
    params = {str(i): p.detach() for i, p in enumerate(tensors(count))}
    grads = {name: 1e-3 * torch.randn_like(p) for name, p in params.items()}
    state = tx.init(params)

    def step() -> None:
        nonlocal params, state
        params, state = fx.step(tx, grads, state, params, inplace=inplace)

    return step


def methods_of(algorithm: str, count: int) -> dict[str, Step]:
    """Ours and torch's, by name."""
    if algorithm == CLIPPED:
        tx = fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=LR))
        steps: dict[str, Step] = {"class": fx.optim.TransformOptimizer(tensors(count), tx).step}
        name, options = "AdamW", {}
    else:
        ours, factory, options = ALGORITHMS[algorithm]
        steps = {"class": getattr(fx.optim, ours)(tensors(count), lr=LR, **options).step}
        tx = getattr(fx, factory)(lr=LR, **options)
        name, options = TWINS.get(algorithm, (ours, options))
    steps["pure in place"], steps["pure out of place"] = pure(tx, count, True), pure(tx, count, False)
    for how, optimizer in torchs(name, options, lambda: tensors(count)):
        steps[how] = clipped(optimizer) if algorithm == CLIPPED else optimizer.step
    return steps


def clipped(optimizer: torch.optim.Optimizer) -> Step:
    params = optimizer.param_groups[0]["params"]

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


def in_groups(algorithm: str) -> dict[str, Step]:
    """A group for each tensor."""
    name, _, options = ALGORITHMS[algorithm]

    def groups() -> list[dict[str, Any]]:
        return [{"params": [p], "lr": LR * (1 + i)} for i, p in enumerate(tensors(GROUPS))]

    steps: dict[str, Step] = {"class": getattr(fx.optim, name)(groups(), lr=LR, **options).step}
    return steps | {how: optimizer.step for how, optimizer in torchs(name, options, groups)}


def measure(steps: dict[str, Step], count: int, rounds: int) -> dict[str, float]:
    """Microseconds of a step."""
    repeats = max(1, 200 // count)

    def repeated(step: Step) -> Step:
        return lambda: [step() for _ in range(repeats)]

    methods = [Method(name, repeated(step)) for name, step in steps.items()]
    for method in methods:
        method.step()
    best, _ = best_of_rounds(methods, rounds, budget=20.0)
    return {name: 1e6 * seconds / repeats for name, seconds in best.items()}


def ratio(cell: dict[str, Any], method: str) -> float | None:
    """Over torch's fastest."""
    times = cell["microseconds"]
    fastest = min(time for name, time in times.items() if name.startswith("torch"))
    return times[method] / fastest if method in times else None


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", nargs="+", type=int, default=list(TENSORS))
    parser.add_argument("--algorithms", nargs="+", choices=[*ALGORITHMS, CLIPPED], default=[*ALGORITHMS, CLIPPED])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=path_of("overhead"), help="the JSON file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    cells = []
    for count in options.tensors:
        for algorithm in options.algorithms:
            times = measure(methods_of(algorithm, count), count, options.rounds)
            cells.append({"algorithm": algorithm, "tensors": count, "groups": 1, "microseconds": times})
    for algorithm in ("SGD, momentum", "AdamW", "RMSprop"):
        if algorithm in options.algorithms:
            times = measure(in_groups(algorithm), GROUPS, options.rounds)
            cells.append({"algorithm": algorithm, "tensors": GROUPS, "groups": GROUPS, "microseconds": times})
    table = Table(title="Time of a step over that of torch's fastest")
    for head in ("tensors", "groups", "algorithm", "torch, µs", "class", "pure in place", "pure out of place"):
        table.add_column(head, justify="right")
    for cell in cells:
        fastest = min(time for name, time in cell["microseconds"].items() if name.startswith("torch"))
        ratios = [ratio(cell, method) for method in ("class", "pure in place", "pure out of place")]
        shown = ["" if x is None else f"{x:.2f}" for x in ratios]
        table.add_row(str(cell["tensors"]), str(cell["groups"]), cell["algorithm"], f"{fastest:.0f}", *shown)
    console = Console(width=120)
    console.print(table)
    for method in ("class", "pure in place", "pure out of place"):
        found = [x for cell in cells if cell["groups"] == 1 and (x := ratio(cell, method)) is not None]
        if found:
            console.print(f"{method}: geometric mean {mean(found):.2f}, worst {max(found):.2f}")
    save(options.out, cells=cells)


if __name__ == "__main__":
    main()
