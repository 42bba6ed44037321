"""Between how a tensor is stored and how a rule computes on it: real, and in single precision or better."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The real dtype in which leaves of these dtypes are computed.

    Half precision is computed in float32, so that each stored value is rounded once.
    """
    dtype = reduce(torch.promote_types, [t.dtype for t in tensors]).to_real()
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def load(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as the rule sees it; complex numbers become pairs of reals."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).to(dtype)


def store(value: Tensor, like: Tensor, inplace: bool) -> Tensor:
    """The rule's result, stored as ``like``: in its dtype, and in its memory if ``inplace``."""
    if inplace:
        (torch.view_as_real(like) if like.is_complex() else like).copy_(value)
        return like
    value = value.to(like.dtype.to_real())
    return torch.view_as_complex(value) if like.is_complex() else value
