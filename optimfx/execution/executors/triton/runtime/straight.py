"""Copies leaves that a kernel cannot address: those with gaps, or in different memory orders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from optimfx.execution.memory import packing


def numels(column: Sequence[Tensor]) -> list[int]:
    """How many reals each tensor holds."""
    sizes = list(map(Tensor.numel, column))
    return [2 * size for size in sizes] if column[0].is_complex() else sizes


def is_plain(column: Sequence[Tensor]) -> bool:
    """Whether memory holds the elements contiguously, in the order of the dimensions, not negated or conjugated."""
    conjugate = column[0].is_complex() and any(map(Tensor.is_conj, column))
    return all(map(Tensor.is_contiguous, column)) and not conjugate and not any(map(Tensor.is_neg, column))


def straighten(
    columns: Sequence[Sequence[Tensor]], written: Sequence[Sequence[Tensor]], positional: bool
) -> tuple[list[list[Tensor]], list[tuple[Tensor, Tensor]]]:
    """Copy columns whose leaves do not lie in one order; return them, and what is to be copied back to where."""
    straight, back = [list(column) for column in columns], []
    for i, row in enumerate(zip(*columns)):
        in_order = is_plain(row) or (packing.same_order(list(row)) and not positional)
        if in_order and not any(t.is_neg() or t.is_conj() for t in row):
            continue
        for own, column, into in zip(columns, straight, row):
            column[i] = into.resolve_conj().resolve_neg().contiguous()
            if column[i] is not into and any(own is other for other in written):
                back.append((into, column[i]))
    return straight, back
