"""From trees to leaves and back: how every rule is initialised and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from optimfx import modes, tree
from optimfx.execution.columns import columns_of, state_of
from optimfx.execution.counts import Columns, donate, runs_of
from optimfx.execution.hyper import carried_at_first, first_scalars, scalars_at, tensor_like
from optimfx.execution.leaves import Leaves
from optimfx.execution.select import select
from optimfx.execution.storage import kept_as
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
            refusal = update.rule.refusal(leaf)
            if refusal:
                given = f"has shape {tuple(leaf.shape)} and dtype {leaf.dtype}"
                raise ValueError(f"{tree.path(spec, i, 'params')} {given}, but {refusal}.")
    if not update.counts:
        return update.state_type()
    # torch.optim's dtype for counts: float32, or float64 when that is the default.
    zero = torch.zeros((), dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))
    carried = [tensor_like(value, zero.double()) for value in carried_at_first(update).values()]
    shared = [[None if leaf is None else value for leaf in leaves] for value in (zero, *carried)]
    hyper = {name: update.hyper[name] for name in update.rule.init_names}
    nothing = (None,) * (len(update.state_type._fields) - update.shares)
    rows = [nothing if leaf is None else update.rule.init(leaf, **hyper) for leaf in leaves]
    slots = [[kept_as(slot, update.state_dtype) for slot in column] for column in zip(*rows)] or [[] for _ in nothing]
    return state_of(update, spec, [*shared, *slots])


def run(
    update: Any, updates: PyTree, state: PyTree, params: PyTree | None, *, stepping: bool, inplace: bool
) -> tuple[PyTree, PyTree]:
    """One update of every leaf that has a gradient; with ``stepping``, the new parameters in place of the updates.

    Nothing is written before everything is checked.
    """
    leaves, before, spec = columns_of(update, updates, state, params)
    with modes.donating(inplace):
        runs = runs_of(before, [i for i, grad in enumerate(leaves.grads) if grad is not None])
        after, groups = _advance(update, leaves, before, runs)
        plan = []
        for scalars, rows in groups:
            _check_params(update, scalars, params)
            _check_layout(update, scalars, leaves.grads, rows, spec)
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
        if inplace and not modes.tracing():
            # torch.vmap hands in a count that all members share as an expanded view, which cannot be written to.
            for old, new in zip(before, after):
                donate(old, new, runs)

    return tree.unflatten(spec, results), state_of(update, spec, [*after, *slots]) if update.counts else state


def check(update: Any, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """Raise what ``run`` would raise of trees that do not fit together."""
    leaves, _, spec = columns_of(update, updates, state, params)
    scalars = first_scalars(update)
    _check_params(update, scalars, params)
    _check_layout(update, scalars, leaves.grads, [i for i, grad in enumerate(leaves.grads) if grad is not None], spec)


def check_link(tx: Any, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """The check of any transformation; one that has none is taken at its word."""
    if hasattr(tx.update, "check"):
        tx.update.check(updates, state, params)


def _check_params(update: Any, scalars: Any, params: PyTree | None) -> None:
    if params is None and update.rule.reads_param(scalars):
        raise ValueError(f"{update.name} needs the parameters here: call update(updates, state, params).")


def _check_layout(update: Any, scalars: Any, grads: Sequence[Any], rows: list[int], spec: PyTreeSpec) -> None:
    """Refuse sparse gradients where elements without one would move, or in a form that has no elements."""
    for i in rows:
        if grads[i].layout is torch.strided:
            continue
        if grads[i].layout is not torch.sparse_coo or grads[i].sparse_dim() == 0:
            raise ValueError(
                f"{tree.path(spec, i, 'updates')} has layout {grads[i].layout} and {grads[i].sparse_dim()} sparse "
                f"dimensions; give it as torch.sparse_coo with at least one, or dense."
            )
        if not update.rule.sparse(scalars):
            raise ValueError(
                f"{tree.path(spec, i, 'updates')} is sparse, and {update.name} with these hyperparameters also moves "
                f"elements that have no gradient. Use sparse_adam, sgd without momentum and decay, or adagrad without "
                f"decay; or make the gradient dense with to_dense()."
            )


def _advance(
    update: Any, leaves: Leaves, before: Columns, runs: list[list[int]]
) -> tuple[Columns, list[tuple[Any, list[int]]]]:
    """What the leaves share, after this step; and the live leaves grouped by scalars, device, layout and dtypes."""
    after = [list(column) for column in before]
    measured = {"global_norm": tree.global_norm(leaves.grads)} if update.rule.measures_norm else {}
    scalars: list[Any] = []
    places: dict[Any, int] = {}
    groups: dict[Any, list[int]] = {}
    rows = list(leaves.rows())
    for run in runs:
        old = [column[run[0]] for column in before]
        count = old[0] + 1 if old else None
        step, *carried = values = tuple(modes.number(x) for x in (count, *old[1:]))
        known = not any(isinstance(value, Tensor) for value in values)
        place = places.setdefault(values, len(scalars)) if known else len(scalars)
        if place == len(scalars):
            scalars.append(scalars_at(update, step, **dict(zip(update.rule.carried, carried)), **measured))
        fresh = [count, *(tensor_like(getattr(scalars[place], n), x) for n, x in zip(update.rule.carried, old[1:]))]
        for i in run:
            for column, value in zip(after, fresh):
                column[i] = value
            key = (place, rows[i][1].device, rows[i][1].layout, *[None if t is None else t.dtype for t in rows[i]])
            groups.setdefault(key, []).append(i)
    return after, [(scalars[key[0]], group) for key, group in groups.items()]
