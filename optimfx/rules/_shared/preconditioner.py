"""Averages of a gradient's products with itself, by which algorithms of whole matrices turn or scale it."""

from __future__ import annotations

from collections.abc import Callable

from optimfx import ops
from optimfx.core import Array, Scalar


def unsupported_reason(param: Array) -> str | None:
    if param.dim() < 2:
        return (
            "only matrices are preconditioned. Give other leaves to another optimizer: fx.partition with fx.is_matrix"
        )
    if param.is_complex():
        return "only real matrices are preconditioned; the parts of a complex one are a matrix each"
    return None


def for_sides(param: Array, longest: int, make: Callable[[Array, int], Array]) -> list[Array]:
    """Make something for the rows and for the columns; ``None`` for a side that is too long."""
    return [make(param, size) if size <= longest else None for size in param.shape[-2:]]


def average(row_factor: Array, column_factor: Array, grad: Array, weight: Scalar) -> list[Array]:
    r"""Average :math:`G G^T` for the rows and :math:`G^T G` for the columns."""
    sides = (row_factor, grad), (column_factor, ops.transpose(grad))
    return [None if f is None else ops.lerp(f, g @ ops.transpose(g), weight) for f, g in sides]


def multiply(left: Array, x: Array, right: Array) -> Array:
    r"""Compute :math:`L X R`; a side that is ``None`` is left out."""
    if left is not None:
        x = left @ x
    return x if right is None else x @ right


def transpose(matrix: Array) -> Array:
    return None if matrix is None else ops.transpose(matrix)
