"""Converts between how tensors are stored and how rules compute: on reals, in float32 at least."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from optimfx.core.types import Array, Column


def real(tensor: Tensor) -> Tensor:
    """View complex numbers as pairs of reals, and a single number as a row of one.

    Beside a row of float32, a 0-d float64 scalar leaves the result in float32; beside a 0-d one it would not.
    """
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.unsqueeze(0) if tensor.dim() == 0 else tensor


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype in which a rule computes on these tensors.

    Half precision is computed in float32, so that each stored value is rounded once.
    """
    return compute_dtype_of([real(t).dtype for t in tensors])


def compute_dtype_of(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return the dtype in which a rule computes on reals of these dtypes."""
    dtype = reduce(torch.promote_types, dtypes)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def load(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert the tensor to what the rule sees."""
    return _as(real(tensor), dtype)


def cast_state(slot: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """Cast a new slot to the user's dtype for states; a complex one to the complex dtype of that precision."""
    if slot is None or dtype is None:
        return slot
    return slot.to(torch.promote_types(dtype, torch.complex32) if slot.is_complex() else dtype)


def copy_aliases(values: Column, inputs: Column, owns: Column) -> list[Array]:
    """Copy a rule's value that is also an input or another result: a state must not hold the caller's gradient."""
    inputs = [x for x in inputs if x is not None]
    copies: list[Array] = []
    for value, own in zip(values, owns):
        # Not any(), which a compiler traces in Python.
        elsewhere = value is not None and value is not own and True in [value is x for x in (*inputs, *copies)]
        copies.append(torch.clone(value) if elsewhere else value)
    return copies


def store(value: Tensor, like: Tensor, inplace: bool) -> Tensor:
    """Store the rule's result as ``like``: in its dtype, and in its memory if ``inplace``."""
    if inplace and not _compiler_drops_write(like):
        real(like).copy_(value)
        return like
    value = _as(value, real(like).dtype)
    if like.is_complex():
        return torch.view_as_complex(value)
    return value.squeeze(0) if like.dim() == 0 else value


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # A call of ``to`` with nothing to do costs a microsecond; Adam would make seven for each leaf.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _compiler_drops_write(tensor: Tensor) -> bool:
    """Whether torch.compile (2.13) loses a write: it takes a 0-d float64 host tensor for a Python number."""
    at_risk = tensor.dim() == 0 and tensor.dtype == torch.float64 and tensor.device.type == "cpu"
    return at_risk and torch.compiler.is_compiling()
