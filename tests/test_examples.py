"""The examples, run as a user runs them. Each checks by itself that its numbers are right."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(name, rows, *options, picture=None):
    """Run an example: it ends well, says all of this, has no warning from our files, and draws its picture."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *options, *(["--out", picture] if picture else [])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # two threads beside the other tests would wait for each other
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for row in rows:
        assert row in done.stdout
    assert f"{ROOT / 'optimfx'}{os.sep}" not in done.stderr, done.stderr
    assert picture is None or picture.read_bytes().startswith(b"\x89PNG")


def test_digits(tmp_path):
    """The three ways agree, in one graph, with 96 %."""
    rows = "torch.func.grad loop", "64 models", "torch.compile", "test accuracy", "steps/s"
    run("digits.py", rows, picture=tmp_path / "digits.png")


def test_migration():
    """torch.optim and optimfx.optim end in the same place."""
    run("migration.py", ("torch.optim", "optimfx.optim", "of the average", "largest difference"))


def test_gpt_char(tmp_path):
    """What is resumed goes on as what was killed would have."""
    rows = "as trained", "their average", "steps were taken twice, with the same losses"
    run("gpt_char.py", rows, picture=tmp_path / "gpt_char.png")


def test_fsdp2():
    """A checkpoint of two processes goes on in one, bit for bit."""
    run("fsdp2.py", ("two processes", "4,805", "one, resumed", "9,610", "losses after the checkpoint"))
