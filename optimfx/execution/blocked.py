"""The rule on stretches that fit into the cache, which what it computes on the way never leaves: a CPU's default."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optimfx.execution import eager, flat, foreach
from optimfx.execution.hyper import Steps
from optimfx.execution.leaves import Leaves
from optimfx.execution.storage import compute_dtype, load

name = "blocked"
virtue = "in cache, block by block"

BLOCK = 1 << 17
"""Elements of a block: fewer, and the calls cost more than the memory traffic that they save; ``make bench`` sweeps
it."""
SMALL = 1 << 13
"""Elements of a leaf above which packing costs more than the calls that it saves, by the same sweep."""


def refusal(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> str | None:
    """Why these leaves cannot run here."""
    if leaves.grads[0].device.type != "cpu":
        return "not on a CPU"
    if not leaves.plain:
        return "tensor subclasses"
    return foreach.refusal(steps, leaves, stepping, inplace)


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better."""
    return None


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""

    def kernel(row: flat.Row, outs: flat.Row) -> None:
        elements = row[1].numel()
        if elements <= BLOCK:
            return _block(steps, row, outs, stepping)
        for begin in range(0, elements, BLOCK):
            end = begin + BLOCK
            _block(steps, [_cut(t, begin, end) for t in row], [_cut(t, begin, end) for t in outs], stepping)

    return flat.run(kernel, leaves, stepping=stepping, inplace=inplace, small=SMALL)


def _block(steps: Steps, row: flat.Row, outs: flat.Row, stepping: bool) -> None:
    dtype = compute_dtype([t for t in row if t is not None])
    param, grad, *slots = [None if t is None else load(t, dtype) for t in row]
    for out, value in zip(outs, eager.leaf(steps, param, grad, slots, stepping)):
        if out is not None and value is not out:
            out.copy_(value)


def _cut(tensor: Tensor | None, begin: int, end: int) -> Tensor | None:
    return None if tensor is None else tensor[begin:end]
