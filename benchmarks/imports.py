"""The time that importing optimfx adds to importing torch: fresh processes in turns, the best of several rounds."""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

from results import ROOT, path_of, save
from rich.console import Console
from rich.progress import track
from timing import Method, best_of_rounds

STATEMENTS = {"torch": "import torch", "torch and optimfx": "import torch, optimfx"}


def run(statement: str) -> None:
    """One statement in an interpreter of its own."""
    subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=path_of("imports"), help="the JSON file")
    options = parser.parse_args()

    methods = [Method(name, partial(run, statement)) for name, statement in STATEMENTS.items()]
    for method in track(methods, description="reading the files once", transient=True):
        method.step()
    best, _ = best_of_rounds(methods, options.rounds, budget=float("inf"))
    added = best["torch and optimfx"] - best["torch"]
    save(options.out, seconds={**best, "added": added})
    console = Console()
    console.print(f"import torch: {best['torch']:.2f} s; with optimfx {added:.2f} s more")
    console.print(str(options.out), soft_wrap=True)


if __name__ == "__main__":
    main()
