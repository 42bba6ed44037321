"""L-BFGS's approximation of the inverse Hessian by the last few steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import Array


class Pair(NamedTuple):
    """The changes of one step."""

    y: Any  # shape=(n,): of the gradient
    s: Any  # shape=(n,): of the parameters
    ro: Any  # 1 / (y s); 0 for a step that was not taken


History = tuple[Pair, ...]
"""A history of fixed length, the newest pair last."""


def remember(history: History, scale: Array, y: Array, s: Array) -> tuple[History, Any]:
    """Add a step to the history, and find the scale ``y s / y y``; both stay as they were unless ``y s > 1e-10``."""
    ys = ops.dot(y, s)
    upwards = ops.read_bool(ys > 1e-10)
    pair = Pair(y, s, 1 / ops.where(upwards, ys, 1.0))
    scale = ops.where(upwards, ys, scale) / ops.where(upwards, ops.dot(y, y), 1.0)
    return ops.select_tree(upwards, (*history[1:], pair), history), scale


def direction(grad: Array, history: History, scale: Array) -> Array:
    """Minus the gradient, times ``scale`` and corrected by the history: the two-loop recursion.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4.
    """
    known = [pair for pair in history if not ops.is_zero(pair.ro)]
    q, weights = -grad, []
    for y, s, ro in reversed(known):
        weights.append(ops.dot(s, q) * ro)
        q = ops.add(q, y, alpha=-weights[-1])
    r = q * scale
    for (y, s, ro), weight in zip(known, reversed(weights)):
        r = ops.add(r, s, alpha=weight - ops.dot(y, r) * ro)
    return r
