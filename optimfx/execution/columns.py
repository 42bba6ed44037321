"""Trees of parameters, updates and state as columns of leaves, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from optree import PyTreeSpec

from optimfx import tree
from optimfx.execution.counts import Columns
from optimfx.execution.leaves import Leaves
from optimfx.tree import PyTree

ABSENT = ()
"""Stands in a state where there is nothing to remember: a tree without leaves, which torch.vmap, unlike ``None``, lets
a function return."""


def state_of(update: Any, spec: PyTreeSpec, columns: Sequence[Sequence[Any]]) -> PyTree:
    """The columns as a state; a slot that no leaf keeps is ``ABSENT`` as a whole."""
    trees = []
    for column in columns:
        kept = any(slot is not None for slot in column)
        leaves = [ABSENT if slot is None else slot for slot in column]
        trees.append(tree.unflatten(spec, leaves) if kept else ABSENT)
    return update.state_type(*trees)


def columns_of(
    update: Any, updates: PyTree, state: PyTree, params: PyTree | None
) -> tuple[Leaves, Columns, PyTreeSpec]:
    """The leaves and what they share as columns, checked against the parameters (or, without them, the updates)."""
    if not isinstance(state, update.state_type):
        raise TypeError(
            f"{update.name} keeps its state in {update.state_type.__name__}, but got {type(state).__name__}; "
            f"give the state that init or the last update returned."
        )
    like = "updates" if params is None else "params"
    reference, spec = tree.flatten(updates if params is None else params)
    size = len(reference)
    grads = reference if params is None else tree.flatten_as(spec, updates, "updates", like)
    names = [f"state.{field}" for field in state._fields]
    columns = [
        [None] * size
        if _absent(field)
        else [None if _absent(entry) else entry for entry in tree.flatten_as(spec, field, name, like)]
        for field, name in zip(state, names)
    ]
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        if params is None:
            tree.check_leaf(grad, spec, i, "updates")
        else:
            tree.check_counterpart(reference[i], grad, spec, i, ("params", "updates"))
        for column, field, name in zip(columns, state, names):
            # A slot may be absent as a whole, which _check_slots judges; a rule that is not elementwise may keep other
            # slots for some leaves than for others; the count is always there.
            kept = update.rule.elementwise and not _absent(field)
            if column[i] is None and (kept or name == "state.step"):
                raise ValueError(
                    f"{tree.path(spec, i, name)} is missing, but {tree.path(spec, i, 'updates')} is a tensor; "
                    f"the state must come from init on parameters that include this leaf."
                )
    _check_slots(update, state)
    split = update.shares
    return Leaves([None] * size if params is None else reference, grads, columns[split:]), columns[:split], spec


def needed(update: Any, hyper: Mapping[str, Any]) -> list[str]:
    """The slots that a parameter has with these hyperparameters, where they do not depend on its shape."""
    if not update.rule.elementwise:
        return []
    slots = update.rule.init(torch.empty(0), **{name: hyper[name] for name in update.rule.init_names})
    return [name for name, slot in zip(update.rule.slots, slots) if slot is not None]


def _check_slots(update: Any, state: PyTree) -> None:
    """Refuse a state that was begun without a slot which the hyperparameters now ask for."""
    if not any(_absent(slot) for slot in state[update.shares :]) or _absent(state[0]):
        return
    for name in needed(update, update.hyper):
        if _absent(getattr(state, name)):
            raise ValueError(
                f"state.{name} is missing, which {update.name} keeps with these hyperparameters: the state was begun "
                f"with others. Begin a new one with init(params)."
            )


def _absent(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 0  # Dynamo cannot trace `not` of a tuple of tensors
