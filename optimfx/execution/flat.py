"""Leaves as stretches of memory: for executors that run a rule on flat tensors, whatever their shapes were.

A large leaf is a stretch where it lies. Small ones are copied end to end into a workspace, many to a stretch, and back:
two copies of a column in cache cost less than a call of the rule for each leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import get_ident
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from optimfx.execution.leaves import Leaves
from optimfx.execution.storage import compute_dtype

Row: TypeAlias = list[Any]
Kernel: TypeAlias = Callable[[Row, Row], None]
"""Reads ``(param, grad, *slots)`` and writes ``(result, *slots)``: 1-D tensors of equal length, or ``None`` where there
is no such column. In place, what is written is what was read, the same object."""

PACKED = 1 << 17
"""Elements per column of a workspace: all columns stay in cache from the copy in to the copy out."""


class Pack(NamedTuple):
    """A workspace for a run of small leaves."""

    begin: int
    end: int
    columns: list[Tensor]  # 1-D, in the dtype that the rule computes in
    views: list[list[Tensor]]  # of each column: one for each leaf, in its shape


def run(
    kernel: Kernel, leaves: Leaves, *, stepping: bool, inplace: bool, small: int
) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column; leaves of up to ``small`` elements are packed."""
    ins: list[Any] = [leaves.params, leaves.grads, *leaves.slots]
    outs = outs_of(ins, stepping)
    if not inplace:
        outs = [c if c[0] is None else [torch.empty_like(t) for t in c] for c in outs]
    sizes = list(map(Tensor.numel, leaves.grads))
    little = [i for i, size in enumerate(sizes) if size <= small and len(sizes) > 1]
    strays = []
    for i in range(len(sizes)) if not little else [i for i, size in enumerate(sizes) if size > small]:
        stretches = _stretches([column[i] for column in (ins if inplace else (*ins, *outs))])
        if stretches is None:
            strays.append(i)
        else:
            row = stretches[: len(ins)]
            kernel(row, outs_of(row, stepping) if inplace else stretches[len(ins) :])
    for places, packs in ((little, _kept_packs), (strays, _packs)):
        if places:
            _run_packed(kernel, _taken(ins, places), _taken(outs, places), stepping, packs)
    return list(outs[0]), [list(column) for column in outs[1:]]


def _run_packed(kernel: Kernel, ins: list[Row], outs: list[Row], stepping: bool, packs_for: Any) -> None:
    dtype = compute_dtype([column[0] for column in ins if column[0] is not None])
    shapes = tuple([t.shape for t in ins[1]])
    for begin, end, columns, views in packs_for(shapes, len(ins), dtype, get_ident()):
        for column, parts in zip(ins, views):
            if column[0] is not None:
                torch._foreach_copy_(parts, column[begin:end])
        row = [None if column[0] is None else packed for column, packed in zip(ins, columns)]
        kernel(row, outs_of(row, stepping))
        for column, parts in zip(outs, outs_of(views, stepping)):
            if column[0] is not None:
                torch._foreach_copy_(column[begin:end], parts)


def outs_of(ins: list[Any], stepping: bool) -> list[Any]:
    """What a rule gives back takes after what it was given: the parameter or the gradient, and the slots."""
    return [ins[0 if stepping else 1], *ins[2:]]


def _taken(columns: Sequence[Any], places: list[int]) -> list[Row]:
    """The leaves at these places, as reals."""
    taken = [c if len(places) == len(c) else [c[i] for i in places] for c in columns]
    return [[torch.view_as_real(t) for t in c] if c[0] is not None and c[0].is_complex() else c for c in taken]


def same_order(row: Row) -> bool:
    """Whether these tensors of one shape lie in memory in the same order, without gaps."""
    first, *others = [t for t in row if t is not None]
    strides = first.stride()
    # empty_like keeps the strides of a tensor without gaps, and of no other.
    return all(t.stride() == strides for t in others) and torch.empty_like(first, device="meta").stride() == strides


def _stretches(row: Row) -> list[Any] | None:
    """Each as it lies in memory, as one dimension of reals; ``None`` if they do not lie in the same order."""
    reals = [torch.view_as_real(t) if t is not None and t.is_complex() else t for t in row]
    if all(t is None or t.is_contiguous() for t in reals):
        return [None if t is None else t.view(-1) for t in reals]
    if not same_order(reals):
        return None
    return [None if t is None else t.as_strided((t.numel(),), (1,)) for t in reals]


def _packs(shapes: Sequence[torch.Size], columns: int, dtype: torch.dtype, thread: int) -> list[Pack]:
    """Workspaces of one thread for leaves of these shapes."""
    packs = []
    begin = elements = 0
    sizes = [shape.numel() for shape in shapes]
    for end, size in enumerate((*sizes, PACKED + 1)):
        if elements and elements + size > PACKED:
            packs.append(_pack(shapes[begin:end], begin, columns, dtype))
            begin, elements = end, 0
        elements += size
    return packs


def _pack(shapes: Sequence[torch.Size], begin: int, columns: int, dtype: torch.dtype) -> Pack:
    sizes = [shape.numel() for shape in shapes]
    with torch.inference_mode(False):  # the workspace may outlive the mode that it was made in
        flat = [torch.empty(sum(sizes), dtype=dtype) for _ in range(columns)]
        views = [[part.view(shape) for part, shape in zip(torch.split(column, sizes), shapes)] for column in flat]
    return Pack(begin, begin + len(shapes), flat, views)


_kept_packs = lru_cache(maxsize=32)(_packs)
