"""Launches a kernel on all leaves, copying those that it cannot address."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from optimfx.core.types import Array, Value
from optimfx.execution.executors.triton.runtime import tables
from optimfx.execution.executors.triton.runtime.build import Kernels
from optimfx.execution.executors.triton.runtime.straight import is_plain, numels, straighten
from optimfx.execution.executors.triton.runtime.tables import ChunkPlan
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory import packing

BLOCK = 1024
"""Elements that one program takes at once: with four warps, each thread loads 16 bytes of float32 twice, and no
registers spill."""
MANY_READS = 20
"""Bytes that a program may load for one element before its block is half as large: Adan in float32 (24 bytes) reaches
97 % of a copy's bandwidth with 512 elements on an H200, 76 % with 1024."""
WARPS = 4
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}
"""No contraction of multiply and add: every operation rounds, as in eager mode."""
PROGRAMS = 2048
"""Programs that measure norms, about, each of several blocks of a tensor: 16 for each multiprocessor of a large GPU."""
SUMS = {"BLOCK": 1024, "num_warps": 4}
"""How their sums are added up."""


class Launcher:
    """Launches kernels on tensors of the same sizes.

    Args:
        kernels: what is launched.
        sizes: how many reals each tensor holds.
        device: where they are.
        members: of how many parts of equal size each tensor consists, along its first dimension.
        together: whether norms are of all tensors together, and not of each.
    """

    def __init__(
        self, kernels: Kernels, sizes: Sequence[int], device: torch.device, *, members: int = 1, together: bool = False
    ) -> None:
        self.kernels, self.device, self.members = kernels, device, members
        self.sizes = tuple([size // members for size in sizes for _ in range(members)])
        self.tensors = len(self.sizes)
        self.totals, self.each = (1, self.tensors) if together else (self.tensors, 1)  # norms, and of how many tensors
        self.block = block_of(kernels.reads)
        self.blocks = _blocks(self.sizes, self.block) if kernels.norms else 1
        self.constants = {align: {"BLOCK": self.block, "ALIGN": align, **OPTIONS} for align in (1, tables.ALIGNED)}
        self.plans: dict[int, tuple[ChunkPlan, ChunkPlan]] = {}

    def launch(
        self, columns: Sequence[Sequence[Tensor]], numbers: Sequence[Value], tensors: Tensor | Sequence[Tensor]
    ) -> Tensor | None:
        """Run the kernels on columns of tensors that lie in memory in the same order, without gaps.

        Args:
            columns: what is read, and what is written.
            numbers: the scalars that are numbers on the host.
            tensors: those that are tensors: of one number, or of one for each tensor and member; or all in one, a row
                for each.

        Returns:
            The hyper vector, if there was anything to do.
        """
        device, kernels = self.device, self.kernels
        with _on(device):
            where = tables.Place(device, tables.stream(device), tables.capturing(device))
            plan, spans = self._plans(where)
            if not plan.programs:
                return None
            table, align = tables.table(columns, where, self.members)
            room = sum(kernels.stages) * self.tensors + max(kernels.stages) * spans.programs if kernels.norms else 0
            hyper, width = tables.hyper(tensors, room, plan)
            constants, numbers, first = self.constants[align], tables.bits(numbers), 0
            given = (hyper, width, self.tensors)
            for squares, count in zip(kernels.norms, kernels.stages):
                arguments = (table, spans.tensor_of, spans.chunk_of, spans.numels, *given, self.blocks, *numbers)
                squares.launch((spans.programs, 1), arguments, constants, where)
                if kernels.total:
                    places = (hyper, spans.begins, width, self.tensors, spans.programs, first, self.each)
                    kernels.total.launch((self.totals, count), places, SUMS, where)
                first += count
            if kernels.kernel:
                arguments = (table, plan.tensor_of, plan.chunk_of, plan.numels, *given, 1, *numbers)
                kernels.kernel.launch((plan.programs, 1), arguments, constants, where)
            return hyper

    def _plans(self, where: tables.Place) -> tuple[ChunkPlan, ChunkPlan]:
        """Which program takes what: of a step, and of norms."""
        known = None if where.capturing else self.plans.get(where.stream)
        if known is None:
            plan = tables.plan_chunks(self.sizes, self.block, where)
            known = plan, plan if self.blocks == 1 else tables.plan_chunks(self.sizes, self.blocks * self.block, where)
            if not where.capturing:
                self.plans[where.stream] = known
        return known


class BoundKernels:
    """A step bound to leaves of one layout.

    Args:
        kernels: for these rules and dtypes.
        leaves: of one shape in each row.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        positional: whether the order of the elements matters.
        members: of how many tensors of equal size each leaf consists, along its first dimension.
    """

    def __init__(
        self, kernels: Kernels, leaves: Leaves, *, stepping: bool, inplace: bool, positional: bool, members: int = 1
    ) -> None:
        self.stepping, self.inplace, self.positional = stepping, inplace, positional or members > 1
        self.is_plain = all([is_plain(column) for column in leaves.columns() if column[0] is not None])
        self.launcher = Launcher(kernels, numels(leaves.grads), leaves.grads[0].device, members=members)

    def run(self, leaves: Leaves, numbers: Sequence[Value], tensors: Tensor | Sequence[Tensor]) -> Results:
        """Launch the kernel with numbers and tensors as scalars: return the results, and the new slots by column."""
        ins: list[Array] = [leaves.params, leaves.grads, *leaves.slots]
        outs = packing.output_columns(ins, self.stepping)
        if not self.inplace:
            outs = [column if column[0] is None else list(map(torch.empty_like, column)) for column in outs]
        columns = [column for column in (ins if self.inplace else (*ins, *outs)) if column[0] is not None]
        if self.is_plain:
            self.launcher.launch(columns, numbers, tensors)
        else:
            straight, back = straighten(columns, outs, self.positional)
            self.launcher.launch(straight, numbers, tensors)
            for own, copy in back:
                own.copy_(copy)
        if self.inplace:
            _count_writes([t for column in outs if column[0] is not None for t in column])
        return outs[0], outs[1:]


@lru_cache(maxsize=tables.PLANS)
def _launcher_of_all(kernels: Kernels, sizes: tuple[int, ...], device: torch.device) -> Launcher:
    return Launcher(kernels, sizes, device, together=True)


def measure(kernels: Kernels, columns: Sequence[Sequence[Tensor]], numbers: Sequence[Value] = ()) -> Tensor:
    """Measure all tensors of the columns together: norms or sums, as a float64 vector on their device."""
    straight = columns if all(map(is_plain, columns)) else straighten(columns, [], positional=False)[0]
    launcher = _launcher_of_all(kernels, tuple(numels(columns[0])), columns[0][0].device)
    (count,), stride = kernels.stages, launcher.tensors
    hyper = launcher.launch(straight, numbers, ())
    return columns[0][0].new_zeros(count, dtype=torch.float64) if hyper is None else hyper[: count * stride : stride]


def block_of(reads: int) -> int:
    """Elements that a program takes at once, by the bytes of each that it may load."""
    return BLOCK if reads <= MANY_READS else BLOCK // 2


def _blocks(sizes: Sequence[int], block: int) -> int:
    """How many blocks of a tensor one program measures: there are about as many programs as run at once."""
    blocks = max(sum(sizes) // (block * PROGRAMS), 1)
    return 1 << (blocks - 1).bit_length()


def _count_writes(tensors: Sequence[Tensor]) -> None:
    """Bump autograd's version counters, as kernels do not; inference tensors have none."""
    try:
        torch.autograd.graph.increment_version(tensors)
    except RuntimeError:  # some were made in inference mode
        torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])


def _on(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
