"""What was found of leaves, for as long as the next ones are like them.

A model steps like leaves again and again. Looking at thousands of them for all that an executor has to know takes
longer than its kernel; that they are as they were before, Dynamo's guards see in one call.
"""

from __future__ import annotations

from typing import Any

from torch._C._dynamo.guards import TensorGuards

from optimfx import modes
from optimfx.execution.leaves import Leaves

MANY = 64
"""Leaves; of fewer, everything is soon found again."""
KEPT = 16
"""Kinds of trees that are remembered."""

_known: dict[Any, tuple[Any, dict[Any, Any]]] = {}


def recognized(leaves: Leaves) -> Leaves:
    """The leaves, with a place for what is found of them: the place of the last ones, if they are like these."""
    if len(leaves.grads) < MANY or modes.tracing():
        return leaves
    columns = (leaves.params, leaves.grads, *leaves.slots)
    types = [set(map(type, column)) for column in columns]
    if any(type(None) in of and len(of) > 1 for of in types):
        return leaves
    tensors = [t for column, of in zip(columns, types) if type(None) not in of for t in column]
    key = (
        len(leaves.grads),
        *[None if column[0] is None else (column[0].shape, column[0].dtype) for column in columns],
    )
    like, found = _known.get(key, (None, {}))
    if like is None or not like.check(*tensors):
        if len(_known) >= KEPT:
            _known.clear()
        like, found = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None), {}
        _known[key] = like, found
    return leaves._replace(found=found)
