"""The rule on stretches that fit into the cache, which what it computes on the way never leaves: a CPU's default."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimfx.execution import eager, flat, foreach
from optimfx.execution.hyper import Steps
from optimfx.execution.leaves import Leaves
from optimfx.execution.storage import compute_dtype, load
from optimfx.execution.tape import Player, Tape, copied

name = "blocked"
virtue = "in cache, block by block"

BLOCK = 1 << 18
"""Elements of a block: fewer, and the calls cost more than the memory traffic that they save; ``make bench`` sweeps
it."""
SHORT = 1 << 14
"""Elements of a stretch up to which the rule simply runs on it."""


def refusal(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> str | None:
    """Why these leaves cannot run here."""
    if leaves.grads[0].device.type != "cpu":
        return "not on a CPU"
    if any(step.rule.positional for step in steps):
        return "the place of an element in its tensor matters"
    return foreach.refusal(steps, leaves, stepping, inplace)


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better."""
    return None


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    recorded: dict[Any, tuple[Player, list[Tensor]]] = {}

    def kernel(row: flat.Row, outs: flat.Row) -> None:
        elements = row[1].numel()
        if elements <= SHORT:
            return _at_once(steps, row, outs, stepping)
        over = outs[0] is row[0 if stepping else 1]
        key = (over, *[None if t is None else t.dtype for t in row])
        if key not in recorded:
            recorded[key] = _record(steps, row, outs, stepping, over)
        player, scratch = recorded[key]
        for begin in range(0, elements, BLOCK):
            end = min(begin + BLOCK, elements)
            block = _cut(row, begin, end)
            places = flat.outs_of(block, stepping) if over else _cut(outs, begin, end)
            player.play(block, places, scratch if end - begin == BLOCK else _cut(scratch, 0, end - begin))

    return flat.run(kernel, leaves, stepping=stepping, inplace=inplace)


def _at_once(steps: Steps, row: flat.Row, outs: flat.Row, stepping: bool) -> None:
    dtype = compute_dtype([t for t in row if t is not None])
    param, grad, *slots = [None if t is None else load(t, dtype) for t in row]
    for out, value in zip(outs, eager.leaf(steps, param, grad, slots, stepping)):
        if out is not None and value is not out:
            out.copy_(value)


def _record(steps: Steps, row: flat.Row, outs: flat.Row, stepping: bool, over: bool) -> tuple[Player, list[Tensor]]:
    """The rules as they will be played on each block, and the scratch that this takes."""
    tape = Tape()
    dtype = compute_dtype([t for t in row if t is not None])
    inputs = [None if t is None else tape.value() for t in row]
    loaded = [x if t is None or t.dtype == dtype else tape.call(copied, [x], {}) for t, x in zip(row, inputs)]
    param, grad, *slots = loaded
    results = eager.leaf(steps, param, grad, slots, stepping)
    direct = [out is not None and out.dtype == dtype for out in outs]
    below = flat.outs_of(inputs, stepping) if over else [None] * len(outs)
    player = Player(tape, inputs, results, direct, below)
    return player, [torch.empty(BLOCK, dtype=dtype, device="cpu") for _ in range(player.scratch)]


def _cut(tensors: flat.Row, begin: int, end: int) -> flat.Row:
    return [None if t is None else t[begin:end] for t in tensors]
