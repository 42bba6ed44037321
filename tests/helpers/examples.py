"""How an example is run."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
