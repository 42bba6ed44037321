"""Leaves as stretches of memory: for executors that run a rule on flat tensors, whatever their shapes were.

A large leaf is a stretch where it lies. Small ones are run together, many to a stretch. What lies end to end already,
as a new state does, is one stretch as it is; the rest is copied into a workspace and back, which costs less than a call
of the rule for each leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from threading import get_ident
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from optimfx.execution.leaves import PLAIN, Leaves
from optimfx.execution.storage import compute_dtype

Row: TypeAlias = list[Any]
Kernel: TypeAlias = Callable[[Row, Row], None]
"""Reads ``(param, grad, *slots)`` and writes ``(result, *slots)``: 1-D tensors of equal length, or ``None`` where there
is no such column. In place, what is written is what was read, the same object."""

SMALL = 1 << 14
"""Elements of a leaf up to which it is run together with others; ``make bench`` sweeps it."""
PACKED = 1 << 17
"""Elements per column of a workspace: all columns stay in cache from the copy in to the copy out."""


class Pack(NamedTuple):
    """A run of small leaves, and a workspace for each of their columns."""

    begin: int
    end: int
    offsets: Sequence[int]  # of each leaf, in elements; then the number of all
    columns: list[Tensor]  # 1-D, in the dtype that the rule computes in
    views: list[list[Tensor]]  # of each column: one for each leaf, in its shape


class Plan(NamedTuple):
    """How leaves of certain shapes are run."""

    large: list[int]
    little: list[int]
    packs: list[Pack]


def run(
    kernel: Kernel, leaves: Leaves, *, stepping: bool, inplace: bool, dtype: torch.dtype | None = None
) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column; ``dtype`` is that of workspaces, if not what the rules compute in."""
    ins: list[Any] = [leaves.params, leaves.grads, *leaves.slots]
    outs: list[Any] = [list(column) for column in outs_of(ins, stepping)]
    dtype = dtype or compute_dtype([column[0] for column in ins if column[0] is not None])
    pairs = leaves.grads[0].is_complex()
    shapes = tuple([grad.shape for grad in leaves.grads])
    large, little, packs = plan(shapes, SMALL, len(ins), dtype, pairs, get_ident())
    strays = []
    for i in large:
        row = [column[i] for column in ins]
        to = outs_of(row, stepping)
        if not inplace:
            to = [None if t is None else torch.empty_like(t) for t in to]
        stretches = _stretches(row if inplace else [*row, *to])
        if stretches is None:
            strays.append(i)
            continue
        row = stretches[: len(ins)]
        kernel(row, outs_of(row, stepping) if inplace else stretches[len(ins) :])
        for column, t in zip(outs, to):
            column[i] = t
    for places, workspaces in ((little, packs), (strays, None)):
        if places:
            columns = _taken(ins, places)
            workspaces = workspaces or _packs([t.shape for t in columns[1]], len(ins), dtype)
            for pack in workspaces:
                parts = _run_pack(kernel, pack, columns, stepping, inplace)
                if not inplace:
                    _put(outs, places[pack.begin : pack.end], parts)
    return outs[0], outs[1:]


@lru_cache(maxsize=32)
def plan(
    shapes: tuple[torch.Size, ...], small: int, columns: int, dtype: torch.dtype, pairs: bool, thread: int
) -> Plan:
    """How leaves of these shapes are run; the workspaces are those of one thread. ``pairs`` are of complex numbers."""
    sizes = [shape.numel() for shape in shapes]
    little = [i for i, size in enumerate(sizes) if size <= small and len(sizes) > 1]
    large = [i for i, size in enumerate(sizes) if size > small or len(sizes) == 1]
    return Plan(large, little, _packs([torch.Size((*shapes[i], *([2] * pairs))) for i in little], columns, dtype))


def together(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors with the small ones end to end in memory, so that no step has to copy them."""
    moved = list(tensors)
    kinds: dict[Any, dict[int, Tensor]] = {}
    for i, t in enumerate(tensors):
        if t is not None and _may_move(t):
            kinds.setdefault((t.dtype, t.device), {})[i] = t
    for own in kinds.values():
        column = torch.cat([t.view(-1) for t in own.values()])
        for i, part in zip(own, _parts(column, [t.shape for t in own.values()])):
            moved[i] = part
    return moved


def _may_move(t: Tensor) -> bool:
    own = type(t) in PLAIN and t.layout is torch.strided and not t.requires_grad
    # On other devices only scalars, which no kernel wants aligned.
    return own and (t.dim() == 0 or (t.is_cpu and t.numel() <= SMALL and t.is_contiguous()))


def end_to_end(parts: Sequence[Tensor], offsets: Sequence[int]) -> Tensor | None:
    """Tensors as the one stretch that they are, if they lie end to end in one storage.

    Args:
        parts: at least one.
        offsets: where each begins, in elements from the first; then the number of all.
    """
    first, size, begin = parts[0], parts[0].element_size(), parts[0].data_ptr()
    if parts[-1].data_ptr() != begin + size * offsets[len(parts) - 1]:
        return None
    if first.untyped_storage().nbytes() < size * (first.storage_offset() + offsets[-1]):
        return None  # neighbours by chance
    if list(map(Tensor.data_ptr, parts)) != [begin + size * offset for offset in offsets[:-1]]:
        return None
    return first.as_strided((offsets[-1],), (1,)) if all(map(Tensor.is_contiguous, parts)) else None


def _run_pack(kernel: Kernel, pack: Pack, ins: list[Row], stepping: bool, inplace: bool) -> list[Any]:
    """The results and the new slots of the leaves of one pack, by column."""
    columns: list[Any] = [None if column[0] is None else column[pack.begin : pack.end] for column in ins]
    row: Row = [None] * len(columns)
    for k, parts in enumerate(columns):
        # What is run over its own memory must be there to be written. And a parameter is written as the tensor that it
        # is: autograd counts the writes to each.
        if parts is not None and k > 0 and inplace:
            row[k] = end_to_end(parts, pack.offsets)
        if parts is not None and row[k] is None:
            torch._foreach_copy_(pack.views[k], parts)
            row[k] = pack.columns[k]
    kernel(row, outs_of(row, stepping))
    news: list[Any] = outs_of(columns, stepping)
    if not inplace:
        # A tensor of its own for each costs less than a view of one for all.
        news = [None if parts is None else list(map(torch.empty_like, parts)) for parts in news]
    for parts, whole, column, views in zip(news, *[outs_of(x, stepping) for x in (row, pack.columns, pack.views)]):
        if parts is not None and whole is column:
            torch._foreach_copy_(parts, views)
    return news


def outs_of(ins: list[Any], stepping: bool) -> list[Any]:
    """What a rule gives back takes after what it was given: the parameter or the gradient, and the slots."""
    return [ins[0 if stepping else 1], *ins[2:]]


def _put(outs: list[Row], places: list[int], columns: list[Any]) -> None:
    """The new leaves, which are reals, where they belong."""
    for out, parts in zip(outs, columns):
        for i, part in zip(places, parts or ()):
            out[i] = torch.view_as_complex(part) if out[i].is_complex() else part


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


def _packs(shapes: Sequence[torch.Size], columns: int, dtype: torch.dtype) -> list[Pack]:
    """Leaves of these shapes in runs, with their workspaces."""
    packs = []
    begin = elements = 0
    sizes = [shape.numel() for shape in shapes]
    for end, size in enumerate((*sizes, PACKED + 1)):
        if end > begin and elements + size > PACKED:
            packs.append(_pack(shapes[begin:end], begin, columns, dtype))
            begin, elements = end, 0
        elements += size
    return packs


def _pack(shapes: Sequence[torch.Size], begin: int, columns: int, dtype: torch.dtype) -> Pack:
    offsets = [0, *accumulate(shape.numel() for shape in shapes)]
    with torch.inference_mode(False):  # the workspace may outlive the mode that it was made in
        flat = [torch.empty(offsets[-1], dtype=dtype, device="cpu") for _ in range(columns)]
        return Pack(begin, begin + len(shapes), offsets, flat, [_parts(column, shapes) for column in flat])


def _parts(column: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Tensors of these shapes in the memory of the column; for autograd, each is a tensor of its own, not a view."""
    parts = torch.split(column, [shape.numel() for shape in shapes])
    return [part.view(shape).data for part, shape in zip(parts, shapes)]
