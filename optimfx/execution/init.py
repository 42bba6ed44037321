"""Initializes states, and refuses leaves that a rule cannot step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import tracing, tree
from optimfx.core.link import Link
from optimfx.core.lowering import Call
from optimfx.core.types import Array, PyTree
from optimfx.execution.advance import check_leaves
from optimfx.execution.memory import packing
from optimfx.execution.memory.dtypes import cast_state
from optimfx.execution.plan.columns import Columns, state_of
from optimfx.execution.step import initial_carry, probe_step, tensor_like


def init(link: Link, params: PyTree) -> PyTree:
    """Begin the state of a rule for these parameters: a step count for each, and small tensors end to end in memory."""
    leaves, spec = tree.flatten(params)
    for i, leaf in enumerate(leaves):
        if leaf is not None:
            tree.check_leaf(leaf, spec, i, "params")
            refusal = link.rule.unsupported_reason(leaf)
            if refusal:
                given = f"has shape {tuple(leaf.shape)} and dtype {leaf.dtype}"
                raise ValueError(f"{tree.path(spec, i, 'params')} {given}, but {refusal}.")
    if not link.has_step_count:
        return link.state_type()
    # torch.optim's dtype for counts: float32, or float64 if that is the default. On the host, reading them is free.
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    zero = torch.zeros((), dtype=dtype, device="cpu")
    carried = [tensor_like(value, zero.double()) for value in initial_carry(link).values()]
    shared = [[None if leaf is None else _of_members(value, leaf) for leaf in leaves] for value in (zero, *carried)]
    hyper = {name: link.hyper[name] for name in link.rule.init_names}
    nothing = (None,) * (len(link.state_type._fields) - link.num_shared_fields)
    rows = [nothing if leaf is None else link.rule.init(leaf, **hyper) for leaf in leaves]
    slots = [[cast_state(slot, link.state_dtype) for slot in column] for column in zip(*rows)] or [[] for _ in nothing]
    if tracing.active():
        return state_of(link, spec, [*shared, *slots])
    return state_of(link, spec, [packing.pack_small(column) for column in (*shared, *slots)])


def count_from_zero(params: PyTree) -> Tensor:
    """Begin the count of a transformation that has taken no step: an int64 scalar on the host."""
    zero = torch.zeros((), dtype=torch.int64, device="cpu")
    leaf = next((leaf for leaf in tree.flatten(params)[0] if leaf is not None), None)
    return zero if leaf is None else _of_members(zero, leaf)


def _of_members(scalar: Tensor, leaf: Array) -> Tensor:
    """Give each member under ``vmap`` a scalar in memory of its own, as after a step: a graph is for one layout."""
    if not tracing.mapped(leaf):
        return scalar
    own: Tensor = scalar + leaf.new_zeros((), dtype=scalar.dtype, device="cpu")
    return own


def check_rules(calls: Sequence[Call], updates: PyTree, params: PyTree | None) -> None:
    """Raise what a step would raise of trees that do not fit together."""
    columns = Columns.of(calls, updates, params)
    grads = columns.leaves.grads
    for call in calls:
        link: Any = call.update
        rows = [i for i, grad in enumerate(grads) if grad is not None and (call.places is None or call.places >> i & 1)]
        if rows:
            check_leaves(link, probe_step(link).scalars, columns, rows, has_params=params is not None)
