"""Averages of a gradient's products with itself, by which algorithms of whole matrices turn or scale it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optimfx import ops
from optimfx.core import Array, Scalar

SHIFT = 1e-4
"""Added to the eigenvalues of a factor, in units of its norm."""
TINY = 1e-30
"""The least norm or eigenvalue that is divided by: float32 has it, and its product with a small ``eps``."""


def unsupported_reason(param: Array) -> str | None:
    if param.dim() < 2:
        return (
            "only matrices are preconditioned. Give other leaves to another optimizer: fx.partition with fx.is_matrix"
        )
    if param.is_complex():
        return "only real matrices are preconditioned; the parts of a complex one are a matrix each"
    if hasattr(param, "redistribute"):
        return "only whole matrices are preconditioned, and this one is spread over processes (a DTensor)"
    return None


def zero_factor(param: Array, size: int) -> Array:
    return ops.zeros(param, (*param.shape[:-2], size, size))


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


def renew(matrix: Array, is_due: Any, make: Callable[[], Array]) -> Array:
    """Recompute a matrix at a step at which it is due; ``None`` for a side that is too long stays."""
    return None if matrix is None else ops.either(is_due, make, lambda: matrix)


def iterate(basis: Array, factor: Array) -> Array:
    """Bring the eigenvectors of a factor nearer, by a step of orthogonal iteration."""
    # Where the factor is singular, as that of one gradient mostly is, rounding alone would say what follows.
    shift = SHIFT * ops.maximum(ops.norm(factor, dim=(-2, -1)), TINY)
    return ops.qr(factor @ basis + shift * basis)


def inverse_root(factor: Array, order: int, eps: Scalar) -> Array:
    """Take the inverse root of a factor, with no eigenvalue less than ``eps`` times the largest."""
    values, vectors = ops.eigh(factor)
    values = ops.maximum(values, eps * ops.maximum(values[..., :1], TINY))
    return (vectors * values[..., None, :] ** (-1 / order)) @ ops.transpose(vectors)


def square(root: Array) -> Array:
    """Multiply a matrix with itself; ``None`` stays."""
    return None if root is None else root @ root


def greatest_eigenvalue(gram: Array) -> Array:
    """Estimate it from below: by a step of the power iteration, which begins with the longest rows."""
    if gram.shape[-1] == 0:
        return ops.zeros(gram, (*gram.shape[:-2], 1, 1))
    lengths = ops.norm(gram, dim=-1)
    longest = ops.where(lengths >= ops.norm(lengths, dim=(-2, -1), ord=float("inf")), 1.0, lengths * 0)
    vector = gram @ longest
    return ops.norm(gram @ vector, dim=(-2, -1)) / ops.maximum(ops.norm(vector, dim=(-2, -1)), TINY)
