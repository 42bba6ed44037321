"""Write the notebooks from their texts: each .py here becomes an .ipynb, is executed, and keeps what it shows.

What differs from run to run and means nothing (times of execution, random names of cells, versions) is left out, so
that two versions of a notebook differ in what a reader sees.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(text: Path) -> None:
    notebook = jupytext.read(text)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
    client = NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": HERE}},
    )
    client.execute()
    notebook.metadata = {
        "jupytext": {"formats": notebook.metadata["jupytext"]["formats"]},
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, text.with_suffix(".ipynb"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, nargs="*", help="the .py files; all of them, if none is given")
    # Threads that spin while they wait take the cores from whatever else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for text in parser.parse_args().texts or sorted(HERE.glob("0*.py")):
        begin = time.perf_counter()
        execute(text)
        print(f"{text.stem}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
