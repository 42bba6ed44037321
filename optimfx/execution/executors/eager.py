"""Runs a rule leaf by leaf, out of place: the reference, which ``vmap``, differentiation and tracers use."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from optimfx.core.types import Array
from optimfx.execution.executors.base import Unplanned
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory.dtypes import compute_dtype, load, store
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.step import Steps, has_per_leaf_scalars, steps_at


class Eager(Unplanned):
    """Runs everything; the others are measured against it."""

    name = "eager"
    description = "leaf by leaf"
    traceable = True

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        return None

    def run(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
        with without_autocast(leaves.grads[0].device.type):
            return run_eagerly(steps, leaves, stepping=stepping, inplace=inplace)


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Let rules compute in their own dtype: autocast would multiply matrices in half precision."""
    is_on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def run_eagerly(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
    """Run the rules leaf by leaf: return the results, and the new slots by column."""
    rows = []
    alike = not has_per_leaf_scalars(steps)
    for i, (param, grad, *old) in enumerate(leaves.rows()):
        dtype = compute_dtype([t for t in (param, grad, *old) if t is not None])
        loaded: list[Array] = [None if t is None else load(t, dtype) for t in (param, grad, *old)]
        p, g, *s = loaded
        values = apply_rules(steps if alike else steps_at(steps, i), p, g, s, stepping)
        likes = (param if stepping else grad, *old)
        rows.append([None if like is None else store(v, like, inplace) for v, like in zip(values, likes)])
    results, *slots = [list(column) for column in zip(*rows)]
    return results, slots
