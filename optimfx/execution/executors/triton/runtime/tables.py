"""What a kernel finds on the device: which program takes what, where the tensors lie, and the numbers of the step."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNED = 16
"""Bytes that a thread loads or stores at once, if every tensor begins at a multiple of them."""
MULTIPLES = set(range(0, 256, ALIGNED))
"""The lowest byte of an address that is one."""
PLANS = 64
"""Plans that are kept."""


class Plan(NamedTuple):
    """Which chunk of which tensor each program takes."""

    tensor_of: Tensor
    chunk_of: Tensor
    begins: Tensor  # shape=(tensors + 1,): the first program of each tensor, and the number of all
    numels: Tensor
    longest: int  # the most chunks of a tensor

    @property
    def programs(self) -> int:
        return len(self.tensor_of)


class Call(NamedTuple):
    """Where the tensors of one call lie, and its scalars."""

    table: Tensor
    hyper: Tensor  # shape=(scalars * width + room,): of each scalar, one number for all tensors or ``width`` in turns
    width: int
    align: int


_plans: dict[Any, Plan] = {}
_captured: list[Any] = []
"""What CUDA graphs read when they are replayed. Nothing tells when the last of them is gone."""


def plan(numels: tuple[int, ...], block: int, device: torch.device) -> Plan:
    """The plan for tensors of so many elements, in chunks of ``block``."""
    if capturing(device):
        # Where a plan is made during a capture, its tables are there only once the graph has run.
        kept = _made_before(numels, block, device) or _plan(numels, block, device)
        _captured.append(kept)
        return kept
    # Another stream might read the tables before they are copied, or after their memory has been given to others.
    key = (numels, block, device, _stream(device))
    found = _plans.get(key)
    if found is None:
        while len(_plans) >= PLANS:
            del _plans[next(iter(_plans))]
        found = _plans[key] = _plan(numels, block, device)
    return found


def _made_before(*key: Any) -> Plan | None:
    """A plan on any stream: what comes before a capture is done when the graph runs."""
    return next((found for known, found in _plans.items() if known[:-1] == key), None)


def call(
    columns: Sequence[Sequence[Tensor]], scalars: Any, device: torch.device, parts: int = 1, room: int = 0
) -> Call:
    """The table of the columns' addresses, row by row, and the scalars, in one copy to the device.

    Scalars that are tensors already are joined with the others there, so that nothing waits for the device; they may be
    joined by the caller, in rows. Each tensor is entered as so many parts of equal size. Behind the scalars is room for
    so many numbers that the device itself computes.
    """
    rows = [map(Tensor.data_ptr, column) if parts == 1 else _inside(column, parts) for column in columns]
    addresses = array("q", chain.from_iterable(rows))
    align = ALIGNED if set(addresses.tobytes()[::8]) <= MULTIPLES else 1
    if isinstance(scalars, Tensor):
        table = _to(torch.frombuffer(addresses, dtype=torch.int64), device)
        hyper = torch.cat([scalars.flatten(), scalars.new_empty(room)]) if room else scalars.contiguous()
        return Call(table, hyper, scalars[:1].numel() or 1, align)
    split, together = len(addresses), any(isinstance(x, Tensor) for x in scalars)
    addresses.frombytes(array("d", [0.0 if isinstance(x, Tensor) else x for x in scalars]).tobytes())
    table = _to(torch.frombuffer(addresses, dtype=torch.int64), device, 0 if together else room)
    hyper = table[split:].view(torch.float64)
    width = max([x.numel() for x in scalars if isinstance(x, Tensor)], default=1)
    if together:
        places = zip(scalars, hyper.unbind())
        numbers = [(_moved(x, device) if isinstance(x, Tensor) else place).expand(width) for x, place in places]
        hyper = torch.cat([*numbers, hyper.new_empty(room)])
    return Call(table, hyper, width, align)


def _moved(scalar: Tensor, device: torch.device) -> Tensor:
    """A scalar, or a vector of them, in float64 on the device; from the host without a wait, also in a capture."""
    scalar = scalar.to(torch.float64)
    return _to(scalar, device) if scalar.is_cpu else scalar.to(device)


def _inside(column: Sequence[Tensor], parts: int) -> Iterator[int]:
    for t in column:
        begin, size = t.data_ptr(), t.nbytes // parts
        yield from (begin + size * part for part in range(parts))


def capturing(device: torch.device) -> bool:
    """Whether what is launched now is recorded into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _plan(numels: tuple[int, ...], block: int, device: torch.device) -> Plan:
    sizes = torch.tensor(numels, device="cpu")
    chunks = (sizes + block - 1) // block
    tensor_of = torch.repeat_interleave(torch.arange(len(numels), device="cpu"), chunks)
    chunk_of = torch.arange(len(tensor_of), device="cpu") - torch.repeat_interleave(chunks.cumsum(0) - chunks, chunks)
    begins = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    maps = [_to(x.int(), device) for x in (tensor_of, chunk_of, begins)]
    return Plan(
        maps[0], maps[1], maps[2], _to(sizes, device), longest=max((size + block - 1) // block for size in numels)
    )


def _to(host: Tensor, device: torch.device, room: int = 0) -> Tensor:
    """A copy on the device that the host does not wait for, with uninitialised numbers at its end."""
    if device.type == "cpu":
        return torch.cat([host, host.new_empty(room)]) if room else host
    # From memory of its own each time: the copy may still be under way when the next step begins.
    pinned = host.pin_memory()
    if capturing(device):
        _captured.append(pinned)
    if not room:
        return pinned.to(device, non_blocking=True)
    copy = torch.empty(len(host) + room, dtype=host.dtype, device=device)
    copy[: len(host)].copy_(pinned, non_blocking=True)
    return copy
