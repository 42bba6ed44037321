"""From the source of a kernel to the kernel."""

from __future__ import annotations

import hashlib
import linecache
import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

INSTALLED = find_spec("triton") is not None
"""Whether there is Triton."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels in Python, on the host; it decides this when it is first imported."""


def serves(device: torch.device) -> bool:
    """Whether there are kernels for tensors on this device."""
    return INSTALLED and device.type == ("cpu" if INTERPRETED else "cuda")


@cache
def kernel(source: str) -> Any:
    """The function ``kernel`` of a module with this source.

    Triton takes a kernel's source from the file that it stands in, and its cache knows it by that source: what differs
    in anything is another kernel.
    """
    name = f"<optimfx kernel {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "optimfx.execution.triton.generated"}
    exec(compile(source, name, "exec"), namespace)
    return namespace["kernel"]
