"""Small leaves end to end in one tensor, on which the rule runs once, and back: for many small leaves on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from optimfx.execution import foreach
from optimfx.execution.leaves import Leaves
from optimfx.execution.storage import compute_dtype

name = "packed"

SMALL = 1 << 9
"""Mean elements per leaf above which the copies cost more than the calls that they save, by
``benchmarks/executors.py``."""


def refusal(rule: Any, leaves: Leaves) -> str | None:
    """Why these leaves cannot run here."""
    return foreach.refusal(rule, leaves)


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better."""
    if leaves.grads[0].device.type != "cpu":
        return "not on a CPU"
    mean = sum(g.numel() for g in leaves.grads) // len(leaves.grads)
    return f"leaves of {mean:,} elements on average" if mean > SMALL else foreach.drawback(leaves)


def run(
    rule: Any, scalars: Any, leaves: Leaves, *, stepping: bool, maximize: bool, inplace: bool
) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    columns: tuple[Any, ...] = (leaves.params, leaves.grads, *leaves.slots)
    dtype = compute_dtype([column[0] for column in columns if column[0] is not None])
    # Two calls for each column, whatever its length: a view for each leaf would cost 2.5 us.
    packed: list[Any] = [None if column[0] is None else _pack(column, dtype) for column in columns]
    param, grad, *old = packed
    values = rule.leaf(param if stepping else None, param, -grad if maximize else grad, *old, scalars)
    likes = (leaves.params if stepping else leaves.grads, *leaves.slots)
    results, *slots = [
        [None] * len(like) if value is None else _unpack(value, like, inplace) for value, like in zip(values, likes)
    ]
    return results, slots


def _pack(column: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    packed: Tensor = _flatten_dense_tensors(_reals(column))  # type: ignore[no-untyped-call]
    return packed.to(dtype)


def _unpack(packed: Tensor, like: Sequence[Tensor], inplace: bool) -> list[Tensor]:
    out = list(like) if inplace else [torch.empty_like(t) for t in like]
    reals = _reals(out)
    torch._foreach_copy_(reals, _unflatten_dense_tensors(packed, reals))  # type: ignore[no-untyped-call]
    return out


def _reals(column: Sequence[Tensor]) -> list[Tensor]:
    return [torch.view_as_real(t) for t in column] if column[0].is_complex() else list(column)
