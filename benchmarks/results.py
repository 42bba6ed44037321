"""Results as files: one JSON for each benchmark and machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks" / "results"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return what the figures depend on: date, machine, versions."""
    gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {
        **gpu,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
    }


def path_of(name: str, folder: Path = FOLDER, device: str = "cpu") -> Path:
    """Where the results of a benchmark on this machine, or on a GPU in it, are kept."""
    where = f"{_processor()} {os.cpu_count()} cores" if device == "cpu" else torch.cuda.get_device_name(device)
    slug = re.sub(r"[^a-z0-9]+", "-", where.lower()).strip("-")
    return folder / f"{name}-{slug}.json"


def save(path: Path, device: str = "cpu", **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(device), **content}, indent=1) + "\n")


def load(path: Path) -> dict[str, Any] | None:
    """Load what was saved, or return None."""
    content: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return content


def _commit() -> str | None:
    """The commit that is measured, where git knows it."""
    with suppress(OSError, subprocess.CalledProcessError):
        command = "git", "rev-parse", "--short", "HEAD"
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).strip()
    return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), flags=re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
