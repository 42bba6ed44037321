"""From trees to leaves and back: how every rule is initialised and run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from optree import PyTreeSpec

from optimfx import modes, tree
from optimfx.execution import flat
from optimfx.execution.columns import columns_of, leaves_of, state_of
from optimfx.execution.counts import Columns, donate, joined, runs_of
from optimfx.execution.hyper import Step, carried_at_first, count, first_step, step_at, step_with, tensor_like
from optimfx.execution.known import recognized
from optimfx.execution.leaves import Leaves, misshapen
from optimfx.execution.planning import Pass
from optimfx.execution.select import norm_of
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
    # torch.optim's dtype for counts: float32, or float64 when that is the default. On the host they are read at once.
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    zero = torch.zeros((), dtype=dtype, device="cpu")
    carried = [tensor_like(value, zero.double()) for value in carried_at_first(update).values()]
    shared = [[None if leaf is None else value for leaf in leaves] for value in (zero, *carried)]
    hyper = {name: update.hyper[name] for name in update.rule.init_names}
    nothing = (None,) * (len(update.state_type._fields) - update.shares)
    rows = [nothing if leaf is None else update.rule.init(leaf, **hyper) for leaf in leaves]
    slots = [[kept_as(slot, update.state_dtype) for slot in column] for column in zip(*rows)] or [[] for _ in nothing]
    if not modes.tracing():
        slots = [flat.together(column) for column in slots]
    return state_of(update, spec, [*shared, *slots])


def run(
    links: Sequence[Any],
    updates: PyTree,
    states: Sequence[PyTree],
    params: PyTree | None,
    *,
    stepping: bool,
    inplace: bool,
) -> tuple[PyTree, list[PyTree]]:
    """One update of every leaf that has a gradient, by rules that follow one another; and their states.

    With ``stepping``, the last one gives the new parameters in place of the updates. What one hands to the next is not
    stored. Nothing is written before everything is checked.
    """
    (given, grads, _, _), spec = leaves_of(updates, params)
    like = "updates" if params is None else "params"
    shared, slots = zip(*[columns_of(link, state, grads, spec, like) for link, state in zip(links, states)])
    if inplace and not stepping:
        grads = list(map(_written_over, grads))
    leaves = recognized(Leaves(given, grads, list(chain(*slots))))
    _check_shapes(links, leaves, spec)
    with modes.donating(inplace, leaves.params):
        runs = runs_of(list(chain(*shared)), [i for i, grad in enumerate(leaves.grads) if grad is not None])
        counts = [[_next(before, run) for before in shared] for run in runs]
        runs, places = joined(runs, [tuple(map(modes.number, chain(*each))) for each in counts])
        by_link = list(zip(*[counts[place] for place in places])) or [()] * len(links)
        steps = list(zip(*[steps_of(link, leaves.grads, each) for link, each in zip(links, by_link)]))
        for run, each in zip(runs, steps):
            for link, step in zip(links, each):
                _check_params(link, step.scalars, params)
                _check_layout(link, step.scalars, leaves.grads, run, spec)
        whole = len(runs) == 1 and len(runs[0]) == len(leaves.grads)
        results, stepped = Pass(stepping=stepping, inplace=inplace).run(leaves, None if whole else runs, steps)
        states = list(states)
        for k, (link, before) in enumerate(zip(links, shared)):
            after = _counted(before, runs, by_link[k], [each[k] for each in steps])
            if inplace and not modes.tracing():
                # torch.vmap hands in a count that all members share as an expanded view, which cannot be written to.
                for old, new in zip(before, after):
                    donate(old, new, runs)
            own, stepped = stepped[: len(link.rule.slots)], stepped[len(link.rule.slots) :]
            if link.counts:
                states[k] = state_of(link, spec, [*after, *own])
    return tree.unflatten(spec, results), states


def _written_over(grad: Any) -> Any:
    """A gradient that can be: one whose elements share memory, as that of a sum does, cannot."""
    shares = grad is not None and grad.layout is torch.strided and 0 in grad.stride()
    return grad.contiguous() if shares else grad


def _next(before: Columns, run: list[int]) -> tuple[Any, ...]:
    """What a run's leaves share at its next step: the count with it, and the scalars carried to it."""
    count, *carried = [column[run[0]] for column in before] or [None]
    return () if count is None else (count + 1, *carried)


def check(update: Any, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """Raise what ``run`` would raise of trees that do not fit together."""
    leaves, spec = leaves_of(updates, params)
    _, slots = columns_of(update, state, leaves.grads, spec, "updates" if params is None else "params")
    _check_shapes([update], recognized(leaves._replace(slots=slots)), spec)
    scalars = first_step(update).scalars
    live = [i for i, grad in enumerate(leaves.grads) if grad is not None]
    if live:
        _check_params(update, scalars, params)
    _check_layout(update, scalars, leaves.grads, live, spec)


def check_link(tx: Any, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """The check of any transformation; one that has none is taken at its word."""
    if hasattr(tx.update, "check"):
        tx.update.check(updates, state, params)


def _check_params(update: Any, scalars: Any, params: PyTree | None) -> None:
    if params is None and update.rule.reads_param(scalars):
        raise ValueError(f"{update.name} needs the parameters here: call update(updates, state, params).")


def _check_shapes(links: Sequence[Any], leaves: Leaves, spec: PyTreeSpec) -> None:
    """Refuse slots of other shapes: a kernel would write beside them."""
    names = [(link, name) for link in links for name in link.rule.slots]
    for k, i in leaves.known(misshapen).items():
        link, name = names[k]
        if link.rule.elementwise or link.rule.norms:
            raise ValueError(
                f"{tree.path(spec, i, f'state.{name}')} has shape {tuple(leaves.slots[k][i].shape)}, but "
                f"{tree.path(spec, i, 'updates')} has shape {tuple(leaves.grads[i].shape)}: give the state that "
                f"{link.name}'s init makes for these parameters."
            )


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


def steps_of(
    update: Any, grads: Sequence[Any], counts: Sequence[tuple[Any, ...]], hyper: dict[str, Any] | None = None
) -> list[Step]:
    """The steps to these counts, each with the scalars that are carried to it.

    ``hyper`` are the values of the hyperparameters, where they are known and do not depend on the count.
    """
    rule = update.rule
    measured = {"global_norm": norm_of(grads)} if rule.measures_norm and counts else {}
    steps = []
    for each in counts:
        taken, *carried = map(modes.number, each or (None,))
        given = {**dict(zip(rule.carried, carried)), **measured}
        steps.append(
            step_at(update, taken, **given)
            if hyper is None
            else step_with(update, None if taken is None else count(taken), hyper, given)
        )
    return steps


def _counted(before: Columns, runs: list[list[int]], counts: Sequence[tuple[Any, ...]], steps: list[Step]) -> Columns:
    """The counts and carried scalars of every leaf after the step."""
    after = [list(column) for column in before]
    for run, count, step in zip(runs, counts, steps):
        carried = [tensor_like(getattr(step.scalars, name), x) for name, x in zip(step.rule.carried, count[1:])]
        for column, value in zip(after, (*count[:1], *carried)):
            for i in run:
                column[i] = value
    return after
