"""Runs a rule on matrices on stacks of them, one call for all leaves of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from optimfx.core import Locality
from optimfx.core.types import Array, Key, Value
from optimfx.execution.executors.base import BoundStep, Executor
from optimfx.execution.executors.eager import run_eagerly, without_autocast
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory.dtypes import compute_dtype
from optimfx.execution.memory.packing import end_to_end
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.step import Steps, has_per_leaf_scalars

LARGEST = 1 << 16
"""Elements up to which a leaf is stacked: the products of larger ones take longer than their calls (``matrices``)."""
STACKED = 1 << 19
"""Elements of a stack, at most: what is computed on the way has as many."""


class Batched(Executor):
    """Runs rules on matrices on a stack of all small leaves of one shape; other leaves one by one."""

    name = "batched"
    description = "small matrices of one shape in a stack"

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        if not leaves.plain:
            return "tensor subclasses"
        if has_per_leaf_scalars(steps):
            return "each leaf has scalars of its own"
        if not all(step.rule.elementwise or step.rule.locality is Locality.MATRIX for step in steps):
            return "the rule is not one on matrices"
        if all(step.rule.elementwise for step in steps):
            return "the rule is elementwise"
        return None if _stacks(leaves)[0] else "no two small leaves have one shape"

    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        stacks, alone = _stacks(leaves)

        def run(steps: Steps, numbers: Sequence[Value], leaves: Leaves) -> Results:
            results: list[Array] = [None] * len(leaves.grads)
            slots: list[list[Array]] = [[None] * len(results) for _ in leaves.slots]
            with without_autocast(leaves.grads[0].device.type):
                done = [(places, _run_stack(steps, leaves.take(places), stepping, inplace)) for places in stacks]
                if alone:
                    done.append((alone, run_eagerly(steps, leaves.take(alone), stepping=stepping, inplace=inplace)))
            for places, (out, new) in done:
                for column, values in zip((results, *slots), (out, *new)):
                    for i, value in zip(places, values):
                        column[i] = value
            return results, slots

        return run


def _stacks(leaves: Leaves) -> tuple[list[list[int]], list[int]]:
    """Group the indices of small leaves of one shape; return the groups, and the indices in none."""
    alike: dict[Key, list[int]] = {}
    for i, grad in enumerate(leaves.grads):
        alike.setdefault(grad.shape if 0 < grad.numel() <= LARGEST else i, []).append(i)
    stacks = [part for places in alike.values() if len(places) > 1 for part in _parts(places, leaves)]
    return stacks, [places[0] for places in alike.values() if len(places) == 1]


def _parts(places: list[int], leaves: Leaves) -> Iterator[list[int]]:
    """Cut a group so that no stack is too large."""
    each = max(1, STACKED // leaves.grads[places[0]].numel())
    return (places[begin : begin + each] for begin in range(0, len(places), each))


def _run_stack(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> Results:
    """Step real leaves of one shape: return the results, and the new slots by column."""
    columns = leaves.columns()
    dtype = compute_dtype([column[0] for column in columns if column[0] is not None])
    # A new state lies end to end; in place, it is read and written where it is.
    wholes = [None if column[0] is None else _whole(column) for column in columns]
    stacks = [
        None if column[0] is None else torch.stack(list(column)) if whole is None else whole
        for column, whole in zip(columns, wholes)
    ]
    param, grad, *slots = [None if stack is None else stack.to(dtype) for stack in stacks]
    values = apply_rules(steps, param, grad, slots, stepping)
    start = 0 if stepping else 1
    likes, places = [columns[start], *columns[2:]], [None, *wholes[2:]]
    after: list[list[Array]] = []
    for value, like, whole in zip(values, likes, places):
        if value is None:
            after.append([None] * len(like))
        elif inplace and whole is not None:
            whole.copy_(value)
            after.append(list(like))
        else:
            # Slices of the stack would keep all of it.
            after.append(list(like) if inplace else list(map(torch.empty_like, like)))
            torch._foreach_copy_(after[-1], value.unbind())
    return after[0], after[1:]


def _whole(column: Sequence[Tensor]) -> Tensor | None:
    """Return tensors of one shape as one stack in their own memory, or ``None`` if they do not lie end to end."""
    shape, size = column[0].shape, column[0].numel()
    whole = end_to_end(column, range(0, len(column) * size + 1, size))
    return None if whole is None else whole.view(-1, *shape)
