"""The tables of a kernel on the device: the chunk of each program, addresses, and scalars."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from optimfx.core.types import Key, Value

T = TypeVar("T")

ALIGNED = 16
"""Bytes that a thread loads or stores at once, if every tensor begins at a multiple of them."""
MULTIPLES = set(range(0, 256, ALIGNED))
"""The lowest byte of an address that is one."""
PLANS = 64
"""Plans that are kept, and as many tables."""


class ChunkPlan(NamedTuple):
    """The chunk of a tensor that each program takes."""

    tensor_of: Tensor
    chunk_of: Tensor
    begins: Tensor  # shape=(tensors + 1,): the first program of each tensor, then the number of programs
    numels: Tensor
    no_scalars: Tensor  # a placeholder that no kernel reads
    programs: int


class Place(NamedTuple):
    """The device and stream of launches."""

    device: torch.device
    stream: int
    capturing: bool  # whether launches are captured into a CUDA graph


_plans: dict[tuple[Key, ...], ChunkPlan] = {}
_tables: dict[tuple[Key, ...], tuple[Tensor, int]] = {}
_captured: list[object] = []
"""Tables that CUDA graphs read when they are replayed. Nothing tells when the last of them is gone."""


def plan_chunks(numels: tuple[int, ...], chunk: int, where: Place) -> ChunkPlan:
    """Plan tensors with these numbers of elements, in chunks of ``chunk`` elements."""
    return _keep(_plans, (numels, chunk), where, lambda: _plan(numels, chunk, where))


def table(columns: Sequence[Sequence[Tensor]], where: Place, parts: int = 1) -> tuple[Tensor, int]:
    """Write the addresses of the tensors of all columns, row by row, to the device; say of what they all are multiples.

    Each tensor is entered as ``parts`` parts of equal size. Nothing is copied if the tensors lie where they did at an
    earlier step, as they mostly do.
    """
    rows = [map(Tensor.data_ptr, column) if parts == 1 else _inside(column, parts) for column in columns]
    addresses = array("q", chain.from_iterable(rows))

    def make() -> tuple[Tensor, int]:
        align = ALIGNED if set(addresses.tobytes()[::8]) <= MULTIPLES else 1
        return _copy_to(torch.frombuffer(addresses, dtype=torch.int64), where), align

    found: tuple[Tensor, int] = _keep(_tables, addresses.tobytes(), where, make)
    return found


def bits(numbers: Sequence[Value]) -> list[int]:
    """Convert numbers to what a kernel is given: the bits of a float64 as an integer."""
    return array("q", array("d", numbers).tobytes()).tolist()


def hyper(scalars: Tensor | Sequence[Tensor], room: int, plan: ChunkPlan) -> tuple[Tensor, int]:
    """Return the scalars that are tensors on the device, and how many numbers each has: one, or one for each turn.

    They are joined there, so that nothing waits for the device; or they have been joined, in rows. Behind them is room
    for so many numbers that the device itself computes.
    """
    spare = plan.no_scalars
    if isinstance(scalars, Tensor):
        joined, width = scalars.contiguous(), scalars[:1].numel() or 1
    elif len(scalars) == 1:
        joined, width = _move(scalars[0], spare.device).contiguous(), scalars[0].numel()
    elif scalars:
        width = max(map(Tensor.numel, scalars))
        joined = torch.cat([_move(x, spare.device).expand(width) for x in scalars])
    else:
        return (spare.new_empty(room) if room else spare), 1
    return (torch.cat([joined.flatten(), spare.new_empty(room)]) if room else joined), width


def _move(scalar: Tensor, device: torch.device) -> Tensor:
    """Move a scalar, or a vector of them, to the device in float64; from the host without a wait, also in a capture."""
    scalar = scalar.to(torch.float64)
    return _copy_to(scalar, Place(device, stream(device), capturing(device))) if scalar.is_cpu else scalar.to(device)


def _keep(known: dict[tuple[Key, ...], T], what: Key, where: Place, make: Callable[[], T]) -> T:
    """Make something for a key once, and keep it for as long as there are not too many."""
    if where.capturing:
        # A table made during a capture is filled only when the graph runs. One made before, on any
        # stream, is filled by then.
        before = next((x for key, x in known.items() if key[:2] == (what, where.device)), None)
        taken = before or make()
        _captured.append(taken)
        return taken
    # Another stream might read it before the copy is done, or after its memory was reused.
    key = (what, *where)
    found = known.get(key)
    if found is None:
        while len(known) >= PLANS:
            known.pop(next(iter(known)), None)
        found = known[key] = make()
    return found


def _inside(column: Sequence[Tensor], parts: int) -> Iterator[int]:
    for t in column:
        begin, size = t.data_ptr(), t.nbytes // parts
        yield from (begin + size * part for part in range(parts))


def capturing(device: torch.device) -> bool:
    """Whether launches are being captured into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def stream(device: torch.device) -> int:
    """Return the stream that launches go to, as a number."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def _plan(numels: tuple[int, ...], chunk: int, where: Place) -> ChunkPlan:
    sizes = torch.tensor(numels, device="cpu")
    chunks = (sizes + chunk - 1) // chunk
    tensor_of = torch.repeat_interleave(torch.arange(len(numels), device="cpu"), chunks)
    chunk_of = torch.arange(len(tensor_of), device="cpu") - torch.repeat_interleave(chunks.cumsum(0) - chunks, chunks)
    begins = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    maps = [_copy_to(x, where) for x in (tensor_of.int(), chunk_of.int(), begins.int(), sizes)]
    no_scalars = torch.empty(1, dtype=torch.float64, device=where.device)
    return ChunkPlan(maps[0], maps[1], maps[2], maps[3], no_scalars, len(tensor_of))


def _copy_to(host: Tensor, where: Place) -> Tensor:
    """Copy to the device, without a wait of the host."""
    if where.device.type == "cpu":
        return host
    # Pin fresh memory each time: the copy may still be in flight at the next step.
    pinned = host.pin_memory()
    if where.capturing:
        _captured.append(pinned)
    return pinned.to(where.device, non_blocking=True)
