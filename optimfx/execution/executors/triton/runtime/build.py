"""Compiles the source of a kernel."""

from __future__ import annotations

import hashlib
import linecache
import os
import shutil
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from optimfx.core.types import Key, Value

INSTALLED = find_spec("triton") is not None
"""Whether there is Triton."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels in Python, on the host; it decides this when it is first imported."""
COMPILER = any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang"))))
"""Whether there is a C compiler, with which Triton makes what launches its kernels."""


def serves(device: torch.device) -> bool:
    """Whether there are kernels for tensors on this device."""
    return INSTALLED and (device.type == "cpu" if INTERPRETED else device.type == "cuda" and COMPILER)


class Kernel:
    """A function of the source, compiled once for each device and alignment.

    Triton would look at every argument of every launch for what it could be compiled for, which takes as long as the
    launch. Here none has to be looked at.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.compiled: dict[Key, Any] = {}

    def launch(
        self, grid: tuple[int, int], arguments: Sequence[Value], constants: dict[str, Value], where: Any
    ) -> None:
        """Launch a grid of programs.

        Args:
            grid: how many, in two dimensions.
            arguments: for which there is one type each.
            constants: for which it is compiled, and further options of the compiler.
            where: the current device, and its stream.
        """
        key = (where.device.index, *constants.values())
        known = self.compiled.get(key)
        if known is None:
            compiled = self.function[grid](*arguments, **constants)
            if compiled is not None:  # not interpreted
                names = [name for name in self.function.arg_names if name in constants]
                self.compiled[key] = compiled, [constants[name] for name in names]
            return
        compiled, values = known
        compiled[(grid[0], grid[1], 1)](*arguments, *values, stream=where.stream)


class Kernels(NamedTuple):
    """The kernels that one call launches."""

    kernel: Kernel | None  # the kernel that stores; None if only norms are measured
    norms: tuple[Kernel, ...]  # the kernels that sum squares, stage by stage
    stages: tuple[int, ...]  # how many norms each stage measures
    total: Kernel | None  # the kernel that adds up partial sums
    reads: int  # bytes of an element that a program may load


@cache
def kernels(source: str) -> Kernels:
    """Build the kernels of a module with this source."""
    found = namespace(source)
    made = {name: Kernel(found[name]) for name in ("kernel", "total") if name in found}
    norms = tuple([Kernel(found[f"norms_{stage}"]) for stage in range(len(found["STAGES"]))])
    return Kernels(made.get("kernel"), norms, found["STAGES"], made.get("total"), found["READS"])


@cache
def namespace(source: str) -> dict[str, Any]:
    """Execute the source of a module, and return what it defines.

    Triton reads a kernel's source from the file in which it is defined, and its cache uses that source as the key: any
    difference makes another kernel.
    """
    name = f"<optimfx kernel {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    defined: dict[str, Any] = {"__name__": "optimfx.execution.executors.triton.generated"}
    exec(compile(source, name, "exec"), defined)
    return defined
