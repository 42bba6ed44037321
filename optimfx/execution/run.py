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
        counts = [tuple(column[run[0]] for column in before) for run in runs]
        counts = [(count[0] + 1, *count[1:]) if count else () for count in counts]
        places, scalars = scalars_of(update, leaves.grads, counts)
        for run, place in zip(runs, places):
            _check_params(update, scalars[place], params)
            _check_layout(update, scalars[place], leaves.grads, run, spec)
        results, slots = execute(update, leaves, runs, places, scalars, stepping=stepping, inplace=inplace)
        after = _counted(update, before, runs, counts, [scalars[place] for place in places])
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


def scalars_of(update: Any, grads: Sequence[Any], counts: list[tuple[Any, ...]]) -> tuple[list[int], list[Any]]:
    """For each step and its carried scalars, the place of its scalars in a list of the different ones."""
    measured = {"global_norm": tree.global_norm(grads)} if update.rule.measures_norm else {}
    known: dict[Any, int] = {}
    places: list[int] = []
    scalars: list[Any] = []
    for count in counts:
        values = tuple(modes.number(value) for value in count)
        numbers = not any(isinstance(value, Tensor) for value in values)
        place = known.setdefault(values, len(scalars)) if numbers else len(scalars)
        if place == len(scalars):
            step, carried = (values[0], values[1:]) if values else (None, ())
            scalars.append(scalars_at(update, step, **dict(zip(update.rule.carried, carried)), **measured))
        places.append(place)
    return places, scalars


def execute(
    update: Any,
    leaves: Leaves,
    runs: list[list[int]],
    places: list[int],
    scalars: list[Any],
    *,
    stepping: bool,
    inplace: bool,
) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column, of runs of leaves; what is in no run stays as it is.

    Leaves are stepped together that share scalars, device, layout and dtypes.
    """
    groups: dict[Any, list[int]] = {}
    kinds = _kinds(leaves)
    for run, place in zip(runs, places):
        if kinds is None:
            groups.setdefault((place, None), []).extend(run)
            continue
        for i in run:
            groups.setdefault((place, kinds[i]), []).append(i)
    plan = [(scalars[key[0]], group, leaves.take(group)) for key, group in groups.items()]
    executors = [select(update.rule, taken, each).executor for each, _, taken in plan]
    results = list(leaves.params if stepping else leaves.grads)
    slots = [list(column) for column in leaves.slots]
    for executor, (each, group, taken) in zip(executors, plan):
        out, new = executor.run(update.rule, each, taken, stepping=stepping, maximize=update.maximize, inplace=inplace)
        if taken is leaves:
            return out, new
        for column, values in zip((results, *slots), (out, *new)):
            for i, value in zip(group, values):
                column[i] = value
    return results, slots


def _kinds(leaves: Leaves) -> list[Any] | None:
    """What leaves must have in common to be stepped together, or ``None`` where all have it."""
    if all(len({None if t is None else t.dtype for t in c}) == 1 for c in (leaves.params, leaves.grads, *leaves.slots)):
        if len({(t.device, t.layout) for t in leaves.grads if t is not None}) == 1:
            return None
    return [
        (None if grad is None else (grad.device, grad.layout), *[None if t is None else t.dtype for t in (grad, *rest)])
        for rest, grad in zip(zip(leaves.params, *leaves.slots), leaves.grads)
    ]


def _counted(
    update: Any, before: Columns, runs: list[list[int]], counts: list[tuple[Any, ...]], scalars: list[Any]
) -> Columns:
    """The counts and carried scalars of every leaf after the step."""
    after = [list(column) for column in before]
    for run, count, each in zip(runs, counts, scalars):
        carried = [tensor_like(getattr(each, name), x) for name, x in zip(update.rule.carried, count[1:])]
        for column, value in zip(after, (*count[:1], *carried)):
            for i in run:
                column[i] = value
    return after
