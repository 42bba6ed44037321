"""From trees to leaves and back: how every rule is initialised and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from optimfx import tree
from optimfx.execution import modes
from optimfx.execution.hyper import number, scalars_at
from optimfx.execution.leaves import Leaves
from optimfx.execution.select import select
from optimfx.tree import PyTree


def init(update: Any, params: PyTree) -> PyTree:
    """The state of a rule for these parameters.

    All leaves begin with one ``step`` tensor in common. Leaves that share it share their scalars, for as long as they
    are stepped together; a leaf that sits out (its gradient is ``None``) keeps the old tensor, and its own count in it.
    """
    leaves, spec = tree.flatten(params)
    for i, leaf in enumerate(leaves):
        if leaf is not None:
            tree.check_leaf(leaf, spec, i, "params")
    if not update.counts:
        return update.state_type()
    # torch.optim's dtype for counts: float32, or float64 when that is the default.
    zero = torch.zeros((), dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
    steps = [None if leaf is None else zero for leaf in leaves]
    hyper = {name: update.hyper[name] for name in update.rule.init_names}
    absent = (None,) * (len(update.state_type._fields) - 1)
    rows = [absent if leaf is None else update.rule.init(leaf, **hyper) for leaf in leaves]
    slots = [_slot_tree(spec, column) for column in zip(*rows)] or absent
    return update.state_type(tree.unflatten(spec, steps), *slots)


def run(
    update: Any, updates: PyTree, state: PyTree, params: PyTree | None, *, stepping: bool, inplace: bool
) -> tuple[PyTree, PyTree]:
    """One update of every leaf that has a gradient; with ``stepping``, the new parameters in place of the updates.

    Nothing is written before everything is checked.
    """
    leaves, steps, spec = _columns(update, updates, state, params)
    live = [i for i, grad in enumerate(leaves.grads) if grad is not None]

    with modes.donating(inplace):
        counts = _counts(steps, live)
        plan = []
        for scalars, rows in _groups(update, leaves, counts, live):
            _check_params(update, scalars, params)
            group = leaves.take(rows)
            plan.append((select(update.rule, group, scalars).executor, scalars, rows, group))

        results = list(leaves.params if stepping else leaves.grads)
        slots = [list(column) for column in leaves.slots]
        for executor, scalars, rows, group in plan:
            out, new = executor.run(
                update.rule, scalars, group, stepping=stepping, maximize=update.maximize, inplace=inplace
            )
            for column, values in zip((results, *slots), (out, *new)):
                for i, value in zip(rows, values):
                    column[i] = value
        if inplace:
            counts = _donate(steps, counts)

    if not update.counts:
        return tree.unflatten(spec, results), state
    kept = [None if old is None else tree.unflatten(spec, column) for old, column in zip(state[1:], slots)]
    return tree.unflatten(spec, results), update.state_type(tree.unflatten(spec, counts), *kept)


def check(update: Any, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """Raise what ``run`` would raise of trees that do not fit together."""
    _columns(update, updates, state, params)
    _check_params(update, scalars_at(update, 1 if update.counts else None, global_norm=1.0), params)


def check_link(tx: Any, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """The check of any transformation; one that has none is taken at its word."""
    if hasattr(tx.update, "check"):
        tx.update.check(updates, state, params)


def _check_params(update: Any, scalars: Any, params: PyTree | None) -> None:
    if params is None and update.rule.reads_param(scalars):
        raise ValueError(f"{update.name} needs the parameters here: call update(updates, state, params).")


def _slot_tree(spec: PyTreeSpec, column: Sequence[Tensor | None]) -> PyTree:
    """The column as a tree, or ``None`` for a slot that no leaf keeps."""
    return None if all(slot is None for slot in column) else tree.unflatten(spec, column)


def _columns(
    update: Any, updates: PyTree, state: PyTree, params: PyTree | None
) -> tuple[Leaves, list[Any], PyTreeSpec]:
    """The trees as columns, each checked against the parameters (or, without them, the updates)."""
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
        [None] * size if field is None else tree.flatten_as(spec, field, name, like)
        for field, name in zip(state, names)
    ]
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        tree.check_leaf(grad, spec, i, "updates")
        if params is not None:
            tree.check_counterpart(reference[i], grad, spec, i, ("params", "updates"))
        for column, field, name in zip(columns, state, names):
            if field is not None and column[i] is None:
                raise ValueError(
                    f"{tree.path(spec, i, name)} is None, but {tree.path(spec, i, 'updates')} is a tensor; "
                    f"the state must come from init on parameters that include this leaf."
                )
    steps, slots = (columns[0], columns[1:]) if columns else ([None] * size, [])
    return Leaves([None] * size if params is None else reference, grads, slots), steps, spec


def _counts(steps: list[Any], live: list[int]) -> list[Any]:
    """Each live leaf's count, one higher; leaves that share a count go on sharing it."""
    counts = list(steps)
    higher: dict[int, Any] = {}
    for i in live:
        step = steps[i]
        if id(step) not in higher:
            higher[id(step)] = None if step is None else step + 1
        counts[i] = higher[id(step)]
    return counts


def _groups(update: Any, leaves: Leaves, counts: list[Any], live: list[int]) -> list[tuple[Any, list[int]]]:
    """The live leaves, grouped by scalars, device and dtypes: ``(scalars, rows)``."""
    steps = {id(count): number(count) for count in counts}
    measured = {"global_norm": tree.global_norm(leaves.grads)} if update.rule.measures_norm else {}
    scalars: dict[Any, Any] = {}
    groups: dict[Any, list[int]] = {}
    rows = list(leaves.rows())
    for i in live:
        step = steps[id(counts[i])]
        at = id(step) if isinstance(step, Tensor) else (step,)
        if at not in scalars:
            scalars[at] = scalars_at(update, step, **measured)
        key = (at, rows[i][1].device, *[None if t is None else t.dtype for t in rows[i]])
        groups.setdefault(key, []).append(i)
    return [(scalars[key[0]], group) for key, group in groups.items()]


def _donate(steps: list[Any], counts: list[Any]) -> list[Any]:
    """The counts in the old tensors, but for those that a leaf which sat out still holds."""
    held = {id(old) for old, new in zip(steps, counts) if old is new}
    fresh = {id(old): (old, new) for old, new in zip(steps, counts) if id(old) not in held}
    written = {key: old.copy_(new) for key, (old, new) in fresh.items()}
    return [written.get(id(old), new) for old, new in zip(steps, counts)]
