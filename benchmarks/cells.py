"""One cell: an algorithm on a workload in a dtype, all methods in turns."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import Any

import torch
from algorithms import Algorithm, class_methods, pure_methods
from memory import peak_extra_bytes
from timing import Method, best_of_rounds
from torch import Tensor
from workloads import DTYPES, Shape

# Above what caches hold, the methods share their parameters: whose they were is forgotten between two steps.
SHARED_BYTES = 1 << 26

Cell = dict[str, Any]


def gradients(shapes: Sequence[Shape], dtype: str) -> list[Tensor]:
    """Fixed gradients for all cells of a workload and dtype."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=DTYPES[dtype], generator=generator) for shape in shapes]


def measure(algorithm: Algorithm, grads: Sequence[Tensor], rounds: int, budget: float, memory: bool) -> Cell | None:
    """The figures of a cell, or None if the algorithm can step no tensor of the workload.

    Times are in milliseconds, memory, if it is asked for, in percent of the parameters' bytes. The first step makes the
    state, and compiles where there is something to compile; it is reported by itself and counts for nothing else.
    """
    grads = [grad for grad in grads if algorithm.takes(tuple(grad.shape))]
    if not grads:
        return None
    size = sum(grad.nbytes for grad in grads)

    def parameters() -> list[Tensor]:
        params: list[Tensor] = []
        for grad in grads:
            params.append(torch.nn.Parameter(grad.clone()))
            params[-1].grad = grad
        return params

    shared = parameters() if size > SHARED_BYTES else None
    first: dict[str, float] = {}
    missing: dict[str, str] = {}
    peak: dict[str, float] = {}
    methods: list[Method] = []
    for make in (class_methods, pure_methods):
        for method in make(algorithm, lambda: shared or parameters()):
            try:
                first[method.name] = 1e3 * method.seconds()
            except RuntimeError as error:
                missing[method.name] = str(error)
                continue
            methods.append(method)
            if memory:
                method.prepare()
                extra = peak_extra_bytes(method.step)
                if extra is not None:
                    peak[method.name] = 100 * extra / size
    best, done = best_of_rounds(methods, rounds, budget)
    del method, methods
    gc.collect()
    return {
        "milliseconds": {name: 1e3 * seconds for name, seconds in best.items()},
        "first_step_milliseconds": first,
        "peak_extra_percent": peak,
        "rounds": done,
        "missing": missing,
    }


def ratios(cell: Cell) -> dict[str, float]:
    """Ours over the best of torch's, and the pure functions over our class with default flags; below 1 is faster."""
    times = cell["milliseconds"]
    torch_best = min((time for name, time in times.items() if name.startswith("torch")), default=None)
    ours = [name for name in times if name.startswith("ours") and torch_best is not None]
    over_torch = {name: times[name] / torch_best for name in ours}
    over_ours = {name: times[name] / times["ours"] for name in times if name.startswith("pure") and "ours" in times}
    return {**over_torch, **over_ours}


def summary(cells: Sequence[Cell], name: str) -> tuple[float, float, str] | None:
    """Geometric mean and worst of a ratio over cells, and where the worst is; None if no cell has it."""
    found = {f"{c['algorithm']}, {c['workload']}, {c['dtype']}": ratios(c).get(name) for c in cells}
    known = {where: ratio for where, ratio in found.items() if ratio is not None}
    if not known:
        return None
    worst = max(known, key=lambda where: known[where])
    return math.exp(sum(map(math.log, known.values())) / len(known)), known[worst], worst
