"""The notebooks: what is written beside each text is that text, and its code runs and finds what it asserts."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

TEXTS = sorted((Path(__file__).parents[2] / "notebooks").glob("0*.py"))
cases = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem[:2])


def test_all_notebooks_are_committed():
    assert len(TEXTS) == 4


@cases
def test_the_notebook_is_its_text(text):
    """``make notebooks`` was run after the last change."""
    written = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    expected = jupytext.read(text)
    assert [(c.cell_type, c.source) for c in written.cells] == [(c.cell_type, c.source) for c in expected.cells]


@cases
def test_the_notebook_shows_results(text):
    """Executed from top to bottom, with pictures, and without errors, warnings or names of the machine it ran on."""
    cells = [c for c in nbformat.read(text.with_suffix(".ipynb"), as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    shown = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
    assert not [word for word in ("/tmp", " at 0x", str(text.parent.parent)) if word in shown]


@cases
def test_notebooks_run(text, tmp_path):
    """As a script on one thread: tests that run beside it keep the other cores busy."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
