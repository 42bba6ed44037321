"""Matrix functions that algorithms share, in the vocabulary of :mod:`optimfx.ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from optimfx import ops
from optimfx.core import REAL, Array, check_hyper, check_tuple

Triple: TypeAlias = tuple[Any, Any, Any]

NEWTON_SCHULZ: dict[str, tuple[Triple, ...]] = {
    "standard": ((3.4445, -4.7750, 2.0315),),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
        (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
        (1.875, -1.25, 0.375),
    ),
}
"""Coefficients by name, a triple for each step; the last serves all further ones.

``standard``: Jordan et al., 2024. ``dion``: Ahn et al., Dion, 2025. ``polar_express``: Amsel et al., 2025; they bring
singular values in [0.001, 1] as near to 1 as any polynomials of degree five.
"""


def orthogonalize(
    matrix: Array, coefficients: Triple | Sequence[Triple], steps: int, eps: Array, dtype: Any = None
) -> Array:
    r"""Find a matrix with the same singular vectors and singular values near 1, by the Newton-Schulz iteration.

    .. math::
        X_0 = M / \lVert M \rVert_F, \qquad X_k = a X_{k-1} + (b A + c A^2) X_{k-1}, \quad A = X_{k-1} X_{k-1}^T

    Args:
        matrix: of shape (..., n, m): one, or a stack.
        coefficients: :math:`(a, b, c)`, or that of each step, of which the last serves all further ones.
        steps: how many polynomials are applied.
        eps: the least norm that is divided by.
        dtype: what to compute in; ``None`` for that of the matrix.
    """
    x = ops.full_tensor(ops.cast(matrix, dtype or matrix.dtype))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = ops.transpose(x)
    x = x / ops.maximum(ops.norm(x, dim=(-2, -1)), eps)
    triples: Any = coefficients if isinstance(coefficients[0], tuple) else (coefficients,)
    for k in range(steps):
        a, b, c = triples[min(k, len(triples) - 1)]
        gram = x @ ops.transpose(x)
        x = ops.addmm(x, ops.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return ops.cast(ops.transpose(x) if tall else x, matrix.dtype)


def newton_schulz_triples(given: Any) -> Any:
    """Look up coefficients by their name, and refuse what is neither a triple of numbers nor several."""
    if isinstance(given, str):
        if given not in NEWTON_SCHULZ:
            raise ValueError(f"ns_coefficients must be one of {sorted(NEWTON_SCHULZ)}, or triples; got {given!r}.")
        return NEWTON_SCHULZ[given]
    if callable(given):  # a schedule of several
        return given
    several = isinstance(given, (tuple, list)) and given and all(isinstance(triple, (tuple, list)) for triple in given)
    for triple in given if several else [given]:
        check_tuple("ns_coefficients", triple, "a", "b", "c")
        check_hyper(REAL, ns_coefficients=triple)
    return tuple(map(tuple, given)) if several else tuple(given)
