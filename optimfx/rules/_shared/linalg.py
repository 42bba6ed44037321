"""Matrix functions that algorithms share, in the vocabulary of :mod:`optimfx.ops`."""

from __future__ import annotations

from typing import Any

from optimfx import ops
from optimfx.core import Array


def orthogonalize(
    matrix: Array, coefficients: tuple[Any, Any, Any], steps: int, eps: Array, dtype: Any = None
) -> Array:
    r"""Find a matrix with the same singular vectors and singular values near 1, by the Newton-Schulz iteration.

    .. math::
        X_0 = M / \lVert M \rVert_F, \qquad X_k = a X_{k-1} + (b A + c A^2) X_{k-1}, \quad A = X_{k-1} X_{k-1}^T

    Args:
        matrix: of shape (..., n, m): one, or a stack.
        coefficients: :math:`(a, b, c)`.
        steps: how often the polynomial is applied.
        eps: the least norm that is divided by.
        dtype: what to compute in; ``None`` for that of the matrix.
    """
    a, b, c = coefficients
    x = ops.whole(ops.cast(matrix, dtype or matrix.dtype))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = ops.transpose(x)
    x = x / ops.maximum(ops.norm(x, dim=(-2, -1)), eps)
    for _ in range(steps):
        gram = x @ ops.transpose(x)
        x = ops.addmm(x, ops.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return ops.cast(ops.transpose(x) if tall else x, matrix.dtype)
