"""What a kernel is given: which program takes what, where the tensors lie, and the scalars of the step."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNED = 16
"""Bytes that a thread loads or stores at once, if every tensor begins at a multiple of them."""
MULTIPLES = set(range(0, 256, ALIGNED))
"""The lowest byte of an address that is one."""
PLANS = 64
"""Plans that are kept, and as many tables."""


class Plan(NamedTuple):
    """Which chunk of which tensor each program takes."""

    tensor_of: Tensor
    chunk_of: Tensor
    begins: Tensor  # shape=(tensors + 1,): the first program of each tensor, and the number of all
    numels: Tensor
    no_scalars: Tensor  # a hyper vector that nobody reads

    @property
    def programs(self) -> int:
        return len(self.tensor_of)


_plans: dict[Any, Plan] = {}
_tables: dict[Any, tuple[Tensor, int]] = {}
_captured: list[Any] = []
"""What CUDA graphs read when they are replayed. Nothing tells when the last of them is gone."""


def plan(numels: tuple[int, ...], chunk: int, device: torch.device) -> Plan:
    """The plan for tensors of so many elements, in chunks of so many."""
    found: Plan = _kept(_plans, (numels, chunk), device, lambda: _plan(numels, chunk, device))
    return found


def table(columns: Sequence[Sequence[Tensor]], device: torch.device, parts: int = 1) -> tuple[Tensor, int]:
    """The addresses of the tensors of all columns, row by row, on the device, and of what they all are multiples.

    Each tensor is entered as so many parts of equal size. Where the tensors lie as in a step before, which is what they
    mostly do, nothing is copied.
    """
    rows = [map(Tensor.data_ptr, column) if parts == 1 else _inside(column, parts) for column in columns]
    addresses = array("q", chain.from_iterable(rows))

    def make() -> tuple[Tensor, int]:
        align = ALIGNED if set(addresses.tobytes()[::8]) <= MULTIPLES else 1
        return _to(torch.frombuffer(addresses, dtype=torch.int64), device), align

    found: tuple[Tensor, int] = _kept(_tables, addresses.tobytes(), device, make)
    return found


def bits(numbers: Sequence[Any]) -> list[int]:
    """The numbers as a kernel is given them: the bits of a float64 as an integer."""
    return array("q", array("d", numbers).tobytes()).tolist()


def hyper(scalars: Sequence[Tensor], room: int, plan: Plan) -> tuple[Tensor, int]:
    """The scalars that are tensors on the device, and how many numbers each is of: one, or one for each in turns.

    They are joined there, so that nothing waits for the device. Behind them is room for so many numbers that the device
    itself computes.
    """
    device, width = plan.no_scalars.device, max(map(Tensor.numel, scalars), default=1)
    numbers = [_moved(x, device).expand(width) for x in scalars]
    if room:
        numbers.append(plan.no_scalars.new_empty(room))
    if not numbers:
        return plan.no_scalars, 1
    return numbers[0].contiguous() if len(numbers) == 1 else torch.cat(numbers), width


def _kept(known: dict[Any, Any], what: Any, device: torch.device, make: Callable[[], Any]) -> Any:
    """What is made for this only once, for as long as there are not too many."""
    if capturing(device):
        # Where it is made during a capture, it is there only once the graph has run. What was made before, on any
        # stream, is there when the graph runs.
        found = next((x for key, x in known.items() if key[:2] == (what, device)), None) or make()
        _captured.append(found)
        return found
    # Another stream might read it before it is copied, or after its memory has been given to others.
    key = (what, device, stream(device))
    found = known.get(key)
    if found is None:
        while len(known) >= PLANS:
            known.pop(next(iter(known)), None)
        found = known[key] = make()
    return found


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


def stream(device: torch.device) -> int:
    """The stream that launches go to, as a number."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


def _plan(numels: tuple[int, ...], chunk: int, device: torch.device) -> Plan:
    sizes = torch.tensor(numels, device="cpu")
    chunks = (sizes + chunk - 1) // chunk
    tensor_of = torch.repeat_interleave(torch.arange(len(numels), device="cpu"), chunks)
    chunk_of = torch.arange(len(tensor_of), device="cpu") - torch.repeat_interleave(chunks.cumsum(0) - chunks, chunks)
    begins = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    maps = [_to(x, device) for x in (tensor_of.int(), chunk_of.int(), begins.int(), sizes)]
    return Plan(maps[0], maps[1], maps[2], maps[3], torch.empty(1, dtype=torch.float64, device=device))


def _to(host: Tensor, device: torch.device) -> Tensor:
    """A copy on the device that the host does not wait for."""
    if device.type == "cpu":
        return host
    # From memory of its own each time: the copy may still be under way when the next step begins.
    pinned = host.pin_memory()
    if capturing(device):
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True)
