"""Packs leaves into contiguous ranges of memory, for executors that ignore shapes.

A large leaf is a span by itself; many small ones share a span. Leaves that already lie end to end, as those of a new
state do, are used where they are; others are copied into a workspace and back, which costs less than calling the rule
for each leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from optimfx.core.types import Array, Column, Key
from optimfx.execution.leaves import PLAIN, Leaves, Results
from optimfx.execution.memory.dtypes import compute_dtype

Row: TypeAlias = list[Array]


class Span(NamedTuple):
    """The leaves of one contiguous range, by their indices."""

    places: Sequence[int]
    offsets: Sequence[int]  # offset of each leaf in elements, then their sum


Kernel: TypeAlias = Callable[[Row, Row, Span], None]
"""Reads ``(param, grad, *slots)`` and writes ``(result, *slots)`` of the leaves of a span: 1-D tensors of equal
length (or contiguous ones, if that is what the layout was made for), or ``None`` where there is no such column. In
place, what is written is what was read, the same object."""

SMALL = 1 << 14
"""Elements of a leaf up to which it is run together with others; ``make bench`` sweeps it."""
PACKED = 1 << 17
"""Elements per column of a workspace: all columns stay in cache from the copy in to the copy out."""


class Pack(NamedTuple):
    """A run of small leaves that are stepped together."""

    begin: int  # indices among the small leaves
    end: int
    span: Span
    lines: Sequence[PackedView]  # of each column
    spare: list[Workspace]  # workspaces that no step in any thread is using


class Workspace(NamedTuple):
    """Memory for the columns of a pack."""

    columns: list[Tensor]  # 1-D, in the dtype that the rule computes in; the last for results, if these are apart
    views: list[list[Tensor]]  # of each column, a view for each leaf, in its shape


class Layout:
    """How leaves are run: the indices of the large ones, and the packs of the small.

    Args:
        leaves: the leaves, or some that are like them.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        dtype: of workspaces, if not what the rules compute in.
        whole: elements up to which a large leaf may keep its shape, if it lies in memory in order.
        joins: whether small leaves that are not written in place may get new slots that lie end to end.
    """

    def __init__(
        self,
        leaves: Leaves,
        *,
        stepping: bool,
        inplace: bool,
        dtype: torch.dtype | None = None,
        whole: int = 0,
        joins: bool = True,
    ) -> None:
        self.stepping = stepping
        self.inplace = inplace
        self.joins = joins and not inplace
        ins = leaves.columns()
        self.columns = len(ins)
        self.dtype = dtype or compute_dtype([column[0] for column in ins if column[0] is not None])
        shapes = [grad.shape for grad in leaves.grads]
        sizes = [shape.numel() for shape in shapes]
        small = [i for i, size in enumerate(sizes) if size <= SMALL and len(sizes) > 1]
        self.single: list[tuple[int, bool]] = []  # the leaves that run alone, and whether they keep their shapes
        strays: list[int] = []
        for i in range(len(sizes)):
            if sizes[i] > SMALL or len(sizes) == 1:
                row = [column[i] for column in ins]
                to = output_columns(row, stepping) if inplace else list(map(_empty_like, output_columns(row, stepping)))
                if sizes[i] <= whole and all(t is None or _is_in_order(t) for t in row):
                    self.single.append((i, True))
                elif _flat_views([*row, *to]) is None:
                    strays.append(i)
                else:
                    self.single.append((i, False))
        self.packed = [(places, _packs(leaves, places, self.columns)) for places in (small, strays) if places]
        self.is_one_pack = len(small) == len(sizes) and len(self.packed[0][1]) == 1 and not leaves.grads[0].is_complex()

    def run(self, kernel: Kernel, leaves: Leaves) -> Results:
        """Run the packs: return the results, and the new slots by column."""
        stepping, inplace, ins = self.stepping, self.inplace, leaves.columns()
        if self.is_one_pack:
            outs = self._run_pack(kernel, self.packed[0][1][0], ins)
            return outs[0], outs[1:]
        outs = [list(column) for column in output_columns(ins, stepping)]
        for i, keeps_shape in self.single:
            row = [column[i] for column in ins]
            news = [] if inplace else list(map(_empty_like, output_columns(row, stepping)))
            views: Any = [*row, *news] if keeps_shape else _flat_views([*row, *news])
            given = views[: len(row)]
            span = Span([i], [0, given[1].numel()])
            kernel(given, output_columns(given, stepping) if inplace else views[len(row) :], span)
            for column, t in zip(outs, news):
                column[i] = t
        for places, packs in self.packed:
            columns = _gather(ins, places)
            for pack in packs:
                part = [column if column[0] is None else column[pack.begin : pack.end] for column in columns]
                news = self._run_pack(kernel, pack, part)
                if not inplace:
                    _scatter(outs, places[pack.begin : pack.end], news)
        return outs[0], outs[1:]

    def _run_pack(self, kernel: Kernel, pack: Pack, columns: Column) -> list[Array]:
        """Run one pack: return the results and the new slots of its leaves, by column."""
        stepping, inplace = self.stepping, self.inplace
        try:
            workspace = pack.spare.pop()
        except IndexError:
            workspace = self._workspace(pack, columns[1])
        row: Row = []
        for parts, line, column, views in zip(columns, pack.lines, *workspace):
            if parts[0] is None:
                row.append(None)
                continue
            # What lies end to end is used where it is. Parameters that will be written are copied and written back one
            # by one: autograd counts the writes to each tensor.
            whole = line.through(parts) if self.joins or (inplace and row) else None
            if whole is None:
                torch._foreach_copy_(views, parts)
                whole = column
            row.append(whole)
        news: list[Array] = output_columns(columns, stepping)
        if self.joins:
            news = self._step_apart(kernel, pack.span, row, news, workspace)
        else:
            kernel(row, output_columns(row, stepping), pack.span)
            if not inplace:
                news = [parts if parts[0] is None else list(map(torch.empty_like, parts)) for parts in news]
            for k, parts in zip(output_columns(range(len(row)), stepping), news):
                if row[k] is workspace.columns[k]:
                    torch._foreach_copy_(parts, workspace.views[k])
        pack.spare.append(workspace)
        return news

    def _step_apart(self, kernel: Kernel, span: Span, row: Row, olds: list[Array], workspace: Workspace) -> list[Array]:
        """Step into new memory: slots end to end, so that the next step need not copy them, and results each apart."""
        result, *slots = olds
        wholes = [None if slot[0] is None else slot[0].new_empty(span.offsets[-1]) for slot in slots]
        kernel(row, [workspace.columns[-1], *wholes], span)
        result = list(map(torch.empty_like, result))
        torch._foreach_copy_(result, workspace.views[-1])
        return [result, *[slot if whole is None else _split(whole, slot) for slot, whole in zip(slots, wholes)]]

    def _workspace(self, pack: Pack, like: Sequence[Tensor]) -> Workspace:
        with torch.inference_mode(False):  # the workspace may outlive the inference mode that it is made in
            size, count = pack.span.offsets[-1], self.columns + self.joins
            columns = [torch.empty(size, dtype=self.dtype, device="cpu") for _ in range(count)]
            return Workspace(columns, [_parts(column, like) for column in columns])


def pack_small(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Lay the small ones of the tensors end to end in memory, so that no step has to copy them."""
    moved = list(tensors)
    kinds: dict[Key, dict[int, Tensor]] = {}
    for i, t in enumerate(tensors):
        if t is not None and _may_move(t):
            kinds.setdefault((t.dtype, t.device), {})[i] = t
    for own in kinds.values():
        column = torch.cat([t.view(-1) for t in own.values()])
        for i, part in zip(own, _parts(column, list(own.values()))):
            moved[i] = part
    return moved


def _may_move(t: Tensor) -> bool:
    own = type(t) in PLAIN and t.layout is torch.strided and not t.requires_grad
    # On other devices pack scalars only: kernels want tensors aligned.
    return own and (t.dim() == 0 or (t.is_cpu and t.numel() <= SMALL and t.is_contiguous()))


def end_to_end(parts: Sequence[Tensor], offsets: Sequence[int]) -> Tensor | None:
    """Return tensors as one 1-D view, if they lie end to end in one storage.

    Args:
        parts: at least one.
        offsets: where each begins, in elements from the first; then the number of all.
    """
    first, size, begin = parts[0], parts[0].element_size(), parts[0].data_ptr()
    if parts[-1].data_ptr() != begin + size * offsets[len(parts) - 1]:
        return None
    if first.untyped_storage().nbytes() < size * (first.storage_offset() + offsets[-1]):
        return None  # adjacent addresses, but separate storages
    if list(map(Tensor.data_ptr, parts)) != [begin + size * offset for offset in offsets[:-1]]:
        return None
    return first.as_strided((offsets[-1],), (1,)) if all(map(Tensor.is_contiguous, parts)) else None


class PackedView:
    """A 1-D view of tensors that lie end to end, reused while their addresses are the same.

    Args:
        offsets: as for :func:`end_to_end`.
    """

    def __init__(self, offsets: Sequence[int]) -> None:
        self.offsets = offsets
        self.addresses: list[int] = []

    def through(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """Return contiguous tensors as one 1-D view, or ``None`` if they do not lie end to end."""
        size = self.offsets[len(tensors) - 1] * tensors[0].element_size()
        if tensors[-1].data_ptr() - tensors[0].data_ptr() != size:
            return None
        addresses = list(map(Tensor.data_ptr, tensors))
        if addresses == self.addresses:
            with suppress(RuntimeError):  # adjacent addresses, but separate storages
                return tensors[0].as_strided((self.offsets[-1],), (1,))
        line = end_to_end(tensors, self.offsets)
        if line is not None:
            self.addresses = addresses
        return line


def output_columns(ins: Column, stepping: bool) -> list[Array]:
    """Return what each result takes after: the parameter or the gradient, and the slots."""
    return [ins[0 if stepping else 1], *ins[2:]]


def _scatter(outs: list[Row], places: list[int], columns: list[Array]) -> None:
    """Put the new leaves, which are reals, where they belong."""
    for out, parts in zip(outs, columns):
        for i, part in zip(places, parts):
            out[i] = torch.view_as_complex(part) if part is not None and out[i].is_complex() else part


def _gather(columns: Column, places: list[int]) -> list[Row]:
    """Take the leaves at these places, as reals."""
    taken = [c if len(places) == len(c) else [c[i] for i in places] for c in columns]
    return [[torch.view_as_real(t) for t in c] if c[0] is not None and c[0].is_complex() else c for c in taken]


def same_order(row: Row) -> bool:
    """Whether these tensors of one shape lie in memory in the same order, without gaps."""
    first, *others = [t for t in row if t is not None]
    strides = first.stride()
    # empty_like keeps strides only of tensors without gaps.
    return all(t.stride() == strides for t in others) and torch.empty_like(first, device="meta").stride() == strides


def _flat_views(row: Row) -> list[Array] | None:
    """Each as it lies in memory, as one dimension of reals; ``None`` if they do not lie in the same order."""
    reals = [torch.view_as_real(t) if t is not None and t.is_complex() else t for t in row]
    if all(t is None or t.is_contiguous() for t in reals):
        return [None if t is None else t.view(-1) for t in reals]
    if not same_order(reals):
        return None
    return [None if t is None else t.as_strided((t.numel(),), (1,)) for t in reals]


def _shapes(leaves: Leaves, places: Sequence[int]) -> list[torch.Size]:
    """Return the shapes of the leaves as reals."""
    pairs = leaves.grads[0].is_complex()
    return [torch.Size((*leaves.grads[i].shape, *([2] * pairs))) for i in places]


def _packs(leaves: Leaves, places: Sequence[int], columns: int) -> list[Pack]:
    """Group the leaves at these places in runs that fit into a workspace."""
    shapes = _shapes(leaves, places)
    packs = []
    begin = elements = 0
    for end, size in enumerate((*[shape.numel() for shape in shapes], PACKED + 1)):
        if end > begin and elements + size > PACKED:
            offsets = [0, *accumulate(shape.numel() for shape in shapes[begin:end])]
            lines = [PackedView(offsets) for _ in range(columns)]
            packs.append(Pack(begin, end, Span(places[begin:end], offsets), lines, []))
            begin, elements = end, 0
        elements += size
    return packs


def _is_in_order(t: Tensor) -> bool:
    return t.is_contiguous() and t.dim() > 0 and not t.is_complex()


def _empty_like(t: Tensor | None) -> Tensor | None:
    return None if t is None else torch.empty_like(t)


def _split(column: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors like these, in the memory of a column where these are in order."""
    parts = zip(_parts(column, like), like)
    return [part if old.is_contiguous() else torch.empty_like(old).copy_(part) for part, old in parts]


def _parts(column: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of these shapes in the memory of a column; for autograd, each is one of its own, not a view."""
    with torch._C._AutoDispatchBelowAutograd():  # or views cost three times as much
        return [part.data for part in torch._C._nn.unflatten_dense_tensors(column, list(like))]
