"""Leaf by leaf, out of place: the reference, and what ``vmap``, differentiation and tracers run."""

from __future__ import annotations

from typing import Any

from optimfx.execution.leaves import Leaves
from optimfx.execution.storage import apart, compute_dtype, load, store

name = "eager"


def refusal(rule: Any, leaves: Leaves) -> str | None:
    """Why these leaves cannot run here: eager runs everything."""
    return None


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better: eager is what the others are measured against."""
    return None


def run(
    rule: Any, scalars: Any, leaves: Leaves, *, stepping: bool, maximize: bool, inplace: bool
) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    rows = []
    for param, grad, *old in leaves.rows():
        dtype = compute_dtype([t for t in (param, grad, *old) if t is not None])
        loaded: list[Any] = [None if t is None else load(t, dtype) for t in (param, grad, *old)]
        p, g, *s = loaded
        values = rule.leaf(p if stepping else None, p, -g if maximize else g, *s, scalars)
        values = apart(values, loaded, (p if stepping else g, *s))
        likes = (param if stepping else grad, *old)
        rows.append([None if like is None else store(v, like, inplace) for v, like in zip(values, likes)])
    results, *slots = [list(column) for column in zip(*rows)]
    return results, slots
