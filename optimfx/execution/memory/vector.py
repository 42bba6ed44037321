"""Leaves as one vector, complex numbers as pairs of reals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.execution.memory.dtypes import compute_dtype, real


def join(leaves: Sequence[Any], likes: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """Join the leaves to one vector, in a dtype that all fit in by default; 0 for a leaf that is not there."""
    there = [like for like in likes if like is not None]
    if not there:
        return torch.empty(0, device="cpu")
    dtype = dtype or compute_dtype(there)
    parts = [torch.zeros_like(like) if leaf is None else leaf for leaf, like in zip(leaves, likes) if like is not None]
    return torch.cat([real(p.to_dense() if p.is_sparse else p).reshape(-1).to(dtype) for p in parts])


def split(x: Tensor, likes: Sequence[Any]) -> list[Any]:
    """Split the vector into leaves like these."""
    sizes = [0 if like is None else real(like).numel() for like in likes]
    return [None if like is None else _shaped(part, like) for part, like in zip(torch.split(x, sizes), likes)]


def _shaped(part: Tensor, like: Tensor) -> Tensor:
    if like.numel() == 0:
        return like  # a part without elements would come out of Inductor (2.13) with other strides
    part = part.to(real(like).dtype)
    if like.is_complex():
        # view_as_complex needs pairs at even offsets.
        return torch.view_as_complex(part.reshape(*like.shape, 2).clone())
    return part.reshape(like.shape)
