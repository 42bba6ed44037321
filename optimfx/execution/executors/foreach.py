"""Runs a rule over lists of leaves, one ``torch._foreach_*`` call per op: for many small leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core.types import Array
from optimfx.execution.executors.base import Unplanned, unlisted_reason
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory.dtypes import compute_dtype, load, real, store
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.program.operators import Operators
from optimfx.execution.step import Steps


class TensorList(Operators):
    """Tensors that a rule handles as if they were one.

    Python's operators and the words of :mod:`optimfx.ops` reach ``__torch_function__``, which maps a torch function to
    its list form, or over the list where torch has none.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> TensorList:
        bare = [a.tensors if isinstance(a, TensorList) else a for a in args]
        if func in _LIST_FORM:
            return cls(list(_LIST_FORM[func](*bare, **(kwargs or {}))))
        size = next(len(a) for a in bare if isinstance(a, list))
        columns = [a if isinstance(a, list) else [a] * size for a in bare]
        return cls([func(*row, **(kwargs or {})) for row in zip(*columns)])


_LIST_FORM: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.add: torch._foreach_add,
    torch.sub: torch._foreach_sub,
    torch.mul: torch._foreach_mul,
    torch.div: torch._foreach_div,
    torch.neg: torch._foreach_neg,
    torch.pow: torch._foreach_pow,
    torch.reciprocal: torch._foreach_reciprocal,
    torch.lerp: torch._foreach_lerp,
    torch.addcmul: torch._foreach_addcmul,
    torch.addcdiv: torch._foreach_addcdiv,
    torch.sqrt: torch._foreach_sqrt,
    torch.abs: torch._foreach_abs,
    torch.sign: torch._foreach_sign,
    torch.maximum: torch._foreach_maximum,
    torch.minimum: torch._foreach_minimum,
    torch.clamp_min: torch._foreach_clamp_min,
    torch.clamp_max: torch._foreach_clamp_max,
}


class Foreach(Unplanned):
    """Runs elementwise rules on lists of leaves."""

    name = "foreach"
    description = "one call for all leaves"

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        return unlisted_reason(steps, leaves)

    def slower_reason(self, leaves: Leaves) -> str | None:
        return "a single leaf" if len(leaves.grads) == 1 else None

    def run(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
        return run_on_lists(steps, leaves, stepping=stepping, inplace=inplace)


def run_on_lists(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
    """Run the rules over lists: return the results, and the new slots by column."""
    columns: tuple[Any, ...] = (leaves.params, leaves.grads, *leaves.slots)
    dtype = compute_dtype([column[0] for column in columns if column[0] is not None])
    lists: list[Array] = [None if column[0] is None else TensorList(_loaded(column, dtype)) for column in columns]
    param, grad, *old = lists
    values = apply_rules(steps, param, grad, old, stepping)
    likes = (leaves.params if stepping else leaves.grads, *leaves.slots)
    results, *slots = [
        [None] * len(like) if value is None else _store(value.tensors, like, inplace)
        for value, like in zip(values, likes)
    ]
    return results, slots


def _loaded(column: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    # With a thousand small leaves, a call for each costs as much as the arithmetic.
    return [t if t.dtype == dtype and t.dim() else load(t, dtype) for t in column]


def _store(values: list[Tensor], like: Sequence[Tensor], inplace: bool) -> list[Tensor]:
    if not inplace:
        if all([v.dtype == t.dtype and t.dim() for v, t in zip(values, like)]):
            return values
        return [store(v, t, inplace) for v, t in zip(values, like)]
    torch._foreach_copy_([real(t) if t.is_complex() or not t.dim() else t for t in like], values)
    return list(like)
