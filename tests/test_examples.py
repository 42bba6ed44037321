"""The examples, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_digits(tmp_path):
    """The demo checks itself: the three ways agree, one graph, 96 %."""
    picture = tmp_path / "digits.png"
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits.py", "--out", picture], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    for row in ("torch.func.grad loop", "64 models", "torch.compile", "test accuracy", "steps/s"):
        assert row in run.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_migration():
    """The example checks that torch.optim and optimfx.optim end in the same place."""
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "migration.py"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    for row in ("torch.optim", "optimfx.optim", "of the average", "largest difference"):
        assert row in run.stdout


def test_gpt_char(tmp_path):
    """The example checks itself: what is resumed goes on as what was killed would have."""
    picture = tmp_path / "gpt_char.png"
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "gpt_char.py", "--out", picture],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # two threads beside the other tests would wait for each other
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    for row in ("as trained", "their average", "steps were taken twice, with the same losses"):
        assert row in run.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
