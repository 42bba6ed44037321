"""How much more memory a call needs while it runs, as the kernel counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

PROCESS = Path("/proc/self")


def peak_extra_bytes(call: Callable[[], object]) -> int | None:
    """Resident memory at the peak of a call beyond that before it; None where the kernel does not tell (not Linux)."""
    gc.collect()
    try:
        # Memory that the allocator keeps would be used again without being counted.
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")  # the peak counts from here on
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    for line in (PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise KeyError(field)
