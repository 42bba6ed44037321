"""Where the foreach executor overtakes eager on a CPU: the size that ``optimfx.execution.foreach.LARGE`` states.

Both run the same Adam step in one process, interleaved, and the best of several rounds counts; read the ratios, not
the times. Run it with ``make bench``.
"""

from __future__ import annotations

import time

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import optimfx as fx
from optimfx.execution import foreach

ELEMENTS = 1 << 22
LEAVES = 512
ROUNDS = 9


def best_times(size: int) -> dict[str, float]:
    """Milliseconds of one step over leaves of this size, by executor."""
    params = [torch.randn(size) for _ in range(max(2, min(LEAVES, ELEMENTS // size)))]
    grads = [torch.randn_like(p) for p in params]
    tx = fx.adam()
    state = tx.init(params)
    best = dict.fromkeys(("eager", "foreach"), float("inf"))
    for _ in range(ROUNDS):
        for name in best:
            with fx.execution.use(name):
                begin = time.perf_counter()
                fx.step(tx, grads, state, params)
                best[name] = min(best[name], 1e3 * (time.perf_counter() - begin))
    return best


def main() -> None:
    sizes = [4**k for k in range(3, 11)]
    table = Table("elements", "eager (ms)", "foreach (ms)", "foreach / eager", "chosen", title="One Adam step, CPU")
    for size in track(sizes, description="measuring"):
        times = best_times(size)
        table.add_row(
            f"{size:,}",
            f"{times['eager']:.2f}",
            f"{times['foreach']:.2f}",
            f"{times['foreach'] / times['eager']:.2f}",
            "eager" if size > foreach.LARGE else "foreach",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
