"""The time that an optimizer adds to the compilation of a training step, and that of the compiled step.

A network of 38 layers, 76 leaves. Each compilation is done in an interpreter of its own, with an empty cache: of the
gradient alone, and of the whole step. The whole step, compiled, is timed beside the compiled gradient with a step in
place after it, in turns in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from results import ROOT, path_of, save
from rich.console import Console

PROGRAM = """
import json, sys, time, torch, optimfx as fx
torch.set_num_threads(1)
layers, width = {layers}, 16
torch.manual_seed(0)
shapes = {{"w": (width, width), "b": (width,)}}
params = {{f"{{kind}}{{i}}": torch.randn(shape) / 8 for i in range(layers) for kind, shape in shapes.items()}}
x, y = torch.randn(8, width), torch.randn(8, width)
tx = fx.adamw(lr=1e-3)
state = tx.init(params)

def loss(params):
    h = x
    for i in range(layers):
        h = torch.tanh(h @ params[f"w{{i}}"] + params[f"b{{i}}"])
    return ((h - y) ** 2).mean()

def gradient(params):
    return torch.func.grad(loss)(params)

def step(params, state):
    return fx.step(tx, gradient(params), state, params)

what = sys.argv[1]
begin = time.perf_counter()
if what == "gradient":
    torch.compile(gradient, fullgraph=True)(params)
    print(json.dumps(time.perf_counter() - begin))
elif what == "step":
    torch.compile(step, fullgraph=True)(params, state)
    print(json.dumps(time.perf_counter() - begin))
else:
    whole, part = torch.compile(step, fullgraph=True), torch.compile(gradient, fullgraph=True)
    best = [float("inf")] * 2
    mine, theirs = (params, state), (dict(params), tx.init(params))
    for i in range(60):
        begin = time.perf_counter()
        mine = whole(*mine)
        middle = time.perf_counter()
        theirs = fx.step(tx, part(theirs[0]), theirs[1], theirs[0], inplace=i > 0)
        end = time.perf_counter()
        if i > 5:
            best = [min(best[0], middle - begin), min(best[1], end - middle)]
    print(json.dumps(best))
"""


def run(what: str, layers: int) -> object:
    """Return what the program prints, with nothing compiled before."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        command = [sys.executable, "-c", PROGRAM.format(layers=layers), what]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=38)
    parser.add_argument("--out", type=Path, default=path_of("compile_time"), help="the JSON file")
    options = parser.parse_args()

    gradient, step = (run(what, options.layers) for what in ("gradient", "step"))
    whole, parts = run("times", options.layers)
    console = Console()
    console.print(f"compiling: gradient {gradient:.1f} s, whole step {step:.1f} s, added {step / gradient - 1:.2f}")
    console.print(f"running: whole step {1e6 * whole:.0f} µs, gradient and a step in place {1e6 * parts:.0f} µs")
    save(options.out, leaves=2 * options.layers, gradient=gradient, step=step, whole=whole, parts=parts)


if __name__ == "__main__":
    main()
