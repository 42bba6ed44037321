"""One launch for all leaves: their memory as a kernel may read and write it, and the kernel on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from optimfx.execution.executors.triton.runtime import tables
from optimfx.execution.executors.triton.runtime.build import Kernels
from optimfx.execution.executors.triton.runtime.straight import Layout, is_plain, numels, straightened
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory import packing

BLOCK = 1024
"""Elements that one program takes at once: with four warps, each thread loads 16 bytes of float32 twice, and no
registers spill."""
MANY = 20
"""Bytes of each of so many elements that a program may load. Of more it takes half as many elements: Adan in float32
(24 bytes) reaches 97 % of a copy's bandwidth with 512 of them on an H200, 76 % with 1024."""
WARPS = 4
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}
"""Every operation rounds, as they do one by one."""
PROGRAMS = 2048
"""At most about so many measure norms, block after block of a tensor: 16 on each multiprocessor of the largest GPUs."""
SUMS = {"BLOCK": 1024, "num_warps": 4}
"""How their sums are added up."""


def run(
    kernels: Kernels,
    scalars: Any,
    leaves: Leaves,
    layout: Layout,
    *,
    stepping: bool,
    inplace: bool,
    positional: bool,
    members: int = 1,
) -> Results:
    """The results, and the new slots by column.

    Args:
        kernels: for these rules and dtypes.
        scalars: in the kernel's order, numbers and tensors: of one number, or of one for each member or leaf; or all in
            one tensor, a row for each.
        leaves: of one shape in each row.
        layout: how they lie.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        positional: whether the order of the elements matters.
        members: of how many tensors of equal size each leaf consists, along its first dimension.
    """
    ins: list[Any] = [leaves.params, leaves.grads, *leaves.slots]
    outs = packing.outs_of(ins, stepping)
    if not inplace:
        outs = [column if column[0] is None else list(map(torch.empty_like, column)) for column in outs]
    read = [column for column in ins if column[0] is not None]
    written = [column for column in outs if column[0] is not None]
    columns = read if inplace else [*read, *written]
    back: list[tuple[Tensor, Tensor]] = []
    if not layout.plain:
        columns, back = straightened(columns, written, positional or members > 1)
    launch(kernels, columns, layout.sizes, scalars, members)
    for own, copy in back:
        own.copy_(copy)
    for column in written if inplace else ():
        _count_writes(column)
    return outs[0], outs[1:]


def norm(kernels: Kernels, column: Sequence[Tensor]) -> Tensor:
    """The norm of all tensors of a column together, as a float64 scalar on their device."""
    straight = column if is_plain(column) else straightened([column], [], positional=True)[0][0]
    hyper = launch(kernels, [straight], numels(column), [], together=True)
    return column[0].new_zeros((), dtype=torch.float64) if hyper is None else hyper[0]


def launch(
    kernels: Kernels,
    columns: Sequence[Sequence[Tensor]],
    sizes: Sequence[int],
    scalars: Any,
    members: int = 1,
    together: bool = False,
) -> Tensor | None:
    """Run the kernels on columns of tensors of these sizes, that lie in memory in the same order, without gaps.

    With ``together``, norms are not of each tensor, but of all. Returns the hyper vector, if there was anything to do.
    """
    device = columns[0][0].device
    with _on(device):
        if members > 1:
            sizes = [size // members for size in sizes for _ in range(members)]
        shapes, tensors = tuple(sizes), len(sizes)
        block = block_of(kernels.reads)
        plan = tables.plan(shapes, block, device)
        if not plan.programs:
            return None
        blocks = _blocks(sizes, block) if kernels.norms else 1
        spans = plan if blocks == 1 else tables.plan(shapes, blocks * block, device)
        table, align = tables.table(columns, device, members)
        room = sum(kernels.turns) * tensors + max(kernels.turns, default=0) * spans.programs
        if isinstance(scalars, Tensor):
            hyper, width = scalars.contiguous(), scalars[:1].numel() or 1
            if room:
                hyper = torch.cat([hyper.flatten(), hyper.new_empty(room)])
            numbers = []
        else:
            hyper, width = tables.hyper([x for x in scalars if isinstance(x, Tensor)], room, plan)
            numbers = tables.bits([x for x in scalars if not isinstance(x, Tensor)])
        where = device.index, tables.stream(device)
        how = {"BLOCK": block, "ALIGN": align, **OPTIONS}
        totals, each = (1, tensors) if together else (tensors, 1)
        first = 0
        for squares, count in zip(kernels.norms, kernels.turns):
            given = (table, spans.tensor_of, spans.chunk_of, spans.numels, hyper, width, tensors, blocks, *numbers)
            squares.launch((spans.programs, 1), given, how, where)
            places = (hyper, spans.begins, width, tensors, spans.programs, first, each)
            if kernels.total:
                kernels.total.launch((totals, count), places, SUMS, where)
            first += count
        if kernels.kernel:
            given = (table, plan.tensor_of, plan.chunk_of, plan.numels, hyper, width, tensors, 1, *numbers)
            kernels.kernel.launch((plan.programs, 1), given, how, where)
        return hyper


def block_of(reads: int) -> int:
    """Elements that a program takes at once, by the bytes of each that it may load."""
    return BLOCK if reads <= MANY else BLOCK // 2


def _blocks(sizes: Sequence[int], block: int) -> int:
    """How many blocks of a tensor one program measures: there are about as many programs as run at once."""
    blocks = max(sum(sizes) // (block * PROGRAMS), 1)
    return 1 << (blocks - 1).bit_length()


def _count_writes(column: Sequence[Tensor]) -> None:
    """Tell autograd, which cannot see what a kernel writes to; with tensors made in inference mode, nobody counts."""
    try:
        torch.autograd.graph.increment_version(column)
    except RuntimeError:  # some were made in inference mode
        torch.autograd.graph.increment_version([t for t in column if not t.is_inference()])


def _on(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
