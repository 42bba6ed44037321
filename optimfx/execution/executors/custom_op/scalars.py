"""Joins one scalar of each leaf to a vector, and splits it again, in few nodes of a compiled graph.

Each way is an op, as a compiler takes seconds for the nodes of a hundred leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import tracing
from optimfx.execution.executors.custom_op.op import move_members_first
from optimfx.execution.executors.custom_op.traced import MIN_LEAVES


def join_scalars(scalars: Sequence[Tensor]) -> Tensor:
    """Join the scalars to a vector."""
    if _is_op(scalars):
        vector: Tensor = torch.ops.optimfx.join(scalars)
        return vector
    return torch.stack(list(scalars))


def split_scalars(vector: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Split a vector into scalars, each of the dtype and on the device of its counterpart."""
    first = like[0]
    alike = all([x.dtype == first.dtype and x.device == first.device for x in like])
    if alike and vector.device == first.device and _is_op([vector, *like]):
        scalars: Sequence[Tensor] = torch.ops.optimfx.part(vector.to(first.dtype), len(like))
        return scalars
    # Copy, or the next step's scalars would have the strides of a column.
    return [x.to(old, copy=True) for x, old in zip(vector.unbind(), like)]


def _is_op(scalars: Sequence[Tensor]) -> bool:
    """Whether it is worth an op, and has no derivative."""
    compiling = torch.compiler.is_compiling() and not tracing.forward_mode()
    return (
        compiling
        and len(scalars) >= MIN_LEAVES
        and not (tracing.requires_autograd(*scalars) or tracing.in_derivative())
    )


@torch.library.custom_op("optimfx::join", mutates_args=())
def _join(scalars: list[Tensor]) -> Tensor:
    return torch.stack(scalars)


@_join.register_fake
def _(scalars):  # type: ignore[no-untyped-def]
    return torch.stack(scalars)


@_join.register_vmap
def _(info, in_dims, scalars):  # type: ignore[no-untyped-def]
    dims = in_dims[0] if isinstance(in_dims[0], (list, tuple)) else [in_dims[0]] * len(scalars)
    return torch.stack([move_members_first(x, dim, info.batch_size) for x, dim in zip(scalars, dims)], dim=1), 0


@torch.library.custom_op("optimfx::part", mutates_args=())
def _part(vector: Tensor, count: int) -> list[Tensor]:
    return _unbound(vector, 0)


@_part.register_fake
def _(vector, count):  # type: ignore[no-untyped-def]
    return [vector.new_empty(()) for _ in range(count)]


@_part.register_vmap
def _(info, in_dims, vector, count):  # type: ignore[no-untyped-def]
    return _unbound(move_members_first(vector, in_dims[0], info.batch_size), 1), [0] * count


def _unbound(vector: Tensor, dim: int) -> list[Tensor]:
    copies: Any = torch.unbind_copy  # typed as if it returned nothing
    return list(copies(vector, dim))
