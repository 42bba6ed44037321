"""From the source of a kernel to the kernel."""

from __future__ import annotations

import hashlib
import linecache
import os
import shutil
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

INSTALLED = find_spec("triton") is not None
"""Whether there is Triton."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels in Python, on the host; it decides this when it is first imported."""
COMPILER = any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang"))))
"""Whether there is a C compiler, with which Triton makes what launches its kernels."""


def serves(device: torch.device) -> bool:
    """Whether there are kernels for tensors on this device."""
    return INSTALLED and (device.type == "cpu" if INTERPRETED else device.type == "cuda" and COMPILER)


class Kernels(NamedTuple):
    """What one call launches."""

    kernel: Any  # the last; None where only norms are asked for
    norms: list[Any]  # what adds up squares, turn by turn
    turns: tuple[int, ...]  # how many norms each turn measures
    total: Any  # what adds up the sums


@cache
def kernels(source: str) -> Kernels:
    """The kernels of a module with this source."""
    found = namespace(source)
    turns = found["TURNS"]
    norms = [found[f"norms_{turn}"] for turn in range(len(turns))]
    return Kernels(found.get("kernel"), norms, turns, found.get("total"))


@cache
def namespace(source: str) -> dict[str, Any]:
    """What a module with this source defines.

    Triton takes a kernel's source from the file that it stands in, and its cache knows it by that source: what differs
    in anything is another kernel.
    """
    name = f"<optimfx kernel {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    defined: dict[str, Any] = {"__name__": "optimfx.execution.executors.triton.generated"}
    exec(compile(source, name, "exec"), defined)
    return defined
