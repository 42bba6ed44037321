"""A kernel compiled ahead of time, for a device that need not be there, and what the compiler made of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from optimfx.execution.executors.triton.runtime import build, launch, tables

ARGUMENTS = {
    "table": "*i64",
    "tensor_of": "*i32",
    "chunk_of": "*i32",
    "numels": "*i64",
    "hyper": "*fp64",
    "width": "i32",
    "tensors": "i32",
    "blocks": "i32",
    "BLOCK": "constexpr",
    "ALIGN": "constexpr",
}


class Compiled(NamedTuple):
    """A kernel in the machine's words."""

    loads: int  # of 128 bits, for each thread: only whole chunks have any
    stores: int
    registers: int  # for each thread
    spilled: int  # bytes of each thread's stack and of registers that are kept in memory
    shared: int  # bytes of shared memory


def compiled(source: str, capability: int, function: str = "kernel") -> Compiled:
    """Compile a function of this source for a CUDA device of this compute capability, as ``90``."""
    from triton.knobs import nvidia

    with TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(stages(source, capability, function)["cubin"])
        code = _tool(nvidia.nvdisasm, cubin)
        usage = dict(re.findall(r"(\w+):(\d+)", _tool(nvidia.cuobjdump, "-res-usage", cubin)))
    return Compiled(
        loads=len(re.findall(r"\bLDG\.E\S*\.128\b", code)),
        stores=len(re.findall(r"\bSTG\.E\S*\.128\b", code)),
        registers=int(usage["REG"]),
        spilled=int(usage["STACK"]) + int(usage["LOCAL"]),
        shared=int(usage["SHARED"]),
    )


def stages(source: str, capability: int, function: str = "kernel") -> Any:
    """Return the compiled stages by name: ``ptx``, ``cubin``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = build.namespace(source)
    fn = found[function]
    signature = {name: ARGUMENTS.get(name, "i64") for name in fn.arg_names}  # scalars are the bits of float64 numbers
    constants = {"BLOCK": launch.block_of(found["READS"]), "ALIGN": tables.ALIGNED}
    places = {(fn.arg_names.index(name),): value for name, value in constants.items()}
    kernel = ASTSource(fn=fn, signature=signature, constexprs=places)
    return triton.compile(kernel, target=GPUTarget("cuda", capability, 32), options=launch.OPTIONS).asm


def _tool(tool: Any, *arguments: Any) -> str:
    """Return what one of the tools that come with Triton prints."""
    return subprocess.run([tool.path, *arguments], capture_output=True, text=True, check=True).stdout
