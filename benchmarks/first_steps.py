"""How long the first step with ``fused=True`` takes, in which a kernel is compiled: with an empty cache, and with it.

Each is taken in an interpreter of its own, which has imported everything before; the kernels of Inductor's cache are
those of the process before it, if any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from algorithms import ALGORITHMS
from results import ROOT, path_of, save
from rich.console import Console
from rich.progress import track
from rich.table import Table

STEP = """
import time, torch, optimfx as fx
params = [torch.nn.Parameter(torch.randn(size)) for size in (1 << 20, 300)]
for p in params:
    p.grad = torch.randn_like(p)
optimizer = getattr(fx.optim, "{class_name}")(params, fused=True, **{options!r})
begin = time.perf_counter()
optimizer.step()
print(time.perf_counter() - begin)
"""


def seconds(source: str, cache: str) -> float:
    """A first step in an interpreter of its own."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    elementwise = [name for name, algorithm in ALGORITHMS.items() if algorithm.elementwise]
    parser.add_argument("--algorithms", nargs="+", choices=elementwise, default=elementwise)
    parser.add_argument("--out", type=Path, default=path_of("first_steps"), help="the JSON file")
    options = parser.parse_args()

    cells = []
    for algorithm in track([ALGORITHMS[name] for name in options.algorithms], description="compiling"):
        source = STEP.format(class_name=algorithm.class_name, options=algorithm.options)
        with tempfile.TemporaryDirectory() as cache:
            cells.append({"algorithm": algorithm.name, "cold": seconds(source, cache), "warm": seconds(source, cache)})
    table = Table(title="The first step with fused=True, s")
    for head in ("algorithm", "cold", "warm"):
        table.add_column(head)
    for cell in cells:
        table.add_row(str(cell["algorithm"]), f"{cell['cold']:.2f}", f"{cell['warm']:.2f}")
    Console().print(table)
    save(options.out, cells=cells)


if __name__ == "__main__":
    main()
