"""Leaf by leaf, out of place: the reference, and what ``vmap``, differentiation and tracers run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimfx.execution.hyper import Steps, is_own, own, unplanned
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.storage import apart, compute_dtype, load, store

name = "eager"
virtue = "leaf by leaf"
takes_hyper = False


def leaf(steps: Steps, param: Any, grad: Any, slots: Sequence[Any], stepping: bool) -> list[Any]:
    """The rules on one leaf, or on what stands for several: the result and the new slots, none of them an input."""
    result = grad
    new: list[Any] = []
    for i, step in enumerate(steps):
        base = param if stepping and i == len(steps) - 1 else None
        own = slots[len(new) : len(new) + len(step.rule.slots)]
        result, *values = step.rule.leaf(base, param, -result if step.maximize else result, *own, step.scalars)
        new += values
    return apart((result, *new), (param, grad, *slots), (param if stepping else grad, *slots))


def refusal(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> str | None:
    """Why these leaves cannot run here: eager runs everything."""
    return None


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better: eager is what the others are measured against."""
    return None


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
    """The results, and the new slots by column."""
    rows = []
    alike = not is_own(steps)
    for i, (param, grad, *old) in enumerate(leaves.rows()):
        dtype = compute_dtype([t for t in (param, grad, *old) if t is not None])
        loaded: list[Any] = [None if t is None else load(t, dtype) for t in (param, grad, *old)]
        p, g, *s = loaded
        values = leaf(steps if alike else own(steps, i), p, g, s, stepping)
        likes = (param if stepping else grad, *old)
        rows.append([None if like is None else store(v, like, inplace) for v, like in zip(values, likes)])
    results, *slots = [list(column) for column in zip(*rows)]
    return results, slots


bind = unplanned(run)
