"""Where stepping leaves together overtakes one by one on a CPU: ``foreach.LARGE``, ``packed.SMALL``.

All run the same Adam step in one process, interleaved, and the best of several rounds counts; read the ratios, not
the times. Run it with ``make bench``.
"""

from __future__ import annotations

import time

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import optimfx as fx

ELEMENTS = 1 << 22
LEAVES = 512
ROUNDS = 9
EXECUTORS = ("eager", "foreach", "packed")


def best_times(size: int) -> dict[str, float]:
    """Milliseconds of one step over leaves of this size, by executor."""
    params = [torch.randn(size) for _ in range(max(2, min(LEAVES, ELEMENTS // size)))]
    grads = [torch.randn_like(p) for p in params]
    tx = fx.adam()
    state = tx.init(params)
    best = dict.fromkeys(EXECUTORS, float("inf"))
    for _ in range(ROUNDS):
        for name in best:
            with fx.execution.use(name):
                begin = time.perf_counter()
                fx.step(tx, grads, state, params)
                best[name] = min(best[name], 1e3 * (time.perf_counter() - begin))
    return best


def main() -> None:
    sizes = [4**k for k in range(3, 11)]
    measured = [f"{name} (ms)" for name in EXECUTORS]
    ratios = [f"{name} / eager" for name in EXECUTORS[1:]]
    table = Table("elements", *measured, *ratios, "chosen", title="One Adam step out of place, CPU")
    for size in track(sizes, description="measuring"):
        times = best_times(size)
        table.add_row(
            f"{size:,}",
            *(f"{times[name]:.2f}" for name in EXECUTORS),
            *(f"{times[name] / times['eager']:.2f}" for name in EXECUTORS[1:]),
            fx.explain(fx.adam(), [torch.empty(size)] * 2)[0].executor,
        )
    Console().print(table)


if __name__ == "__main__":
    main()
