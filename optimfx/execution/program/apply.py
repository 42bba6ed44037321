"""Applies a sequence of rules to one leaf."""

from __future__ import annotations

from optimfx.core.types import Array, Column
from optimfx.execution.memory.dtypes import copy_aliases
from optimfx.execution.step import Steps


def apply_rules(steps: Steps, param: Array, grad: Array, slots: Column, stepping: bool) -> list[Array]:
    """Apply the rules to one leaf, or to what stands for several: return the result and new slots, no input itself."""
    result = grad
    new: list[Array] = []
    for i, step in enumerate(steps):
        base = param if stepping and i == len(steps) - 1 else None
        own = slots[len(new) : len(new) + len(step.rule.slots)]
        result, *values = step.rule.leaf(base, param, -result if step.maximize else result, *own, step.scalars)
        new += values
    return copy_aliases((result, *new), (param, grad, *slots), (param if stepping else grad, *slots))
