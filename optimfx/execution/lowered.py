"""Runs a lowered transformation: rules by the engine, and functions of whole trees between them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimfx.core import (
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_transformation,
    tracing,
    tree,
)
from optimfx.core.link import Link
from optimfx.core.lowering import Call, Lowered, only
from optimfx.core.types import Array, Column
from optimfx.execution.engine import run_rules
from optimfx.execution.explanation import Explanation, explain_function, explain_rules
from optimfx.execution.init import check_rules
from optimfx.execution.plan.columns import mask_column


class Lowering(StructuredUpdate):
    """A transformation that lowers to calls of rules and functions; subclasses implement ``lower``."""

    def lower(self, reference: PyTree, state: State | None) -> Lowered:
        """Return the calls for leaves of this tree: of the parameters, or of the updates without any.

        Args:
            reference: the tree.
            state: that of the transformation; ``None`` where nothing will be run.
        """
        raise NotImplementedError

    def run(
        self,
        updates: Updates,
        state: State,
        params: Params | None,
        *,
        stepping: bool,
        inplace: bool,
        spare_updates: bool = False,
        **extra: Any,
    ) -> tuple[PyTree, State]:
        lowered = self.lower(updates if params is None else params, state)
        how = {"stepping": stepping, "inplace": inplace, "spare_updates": spare_updates}
        if all([isinstance(call.update, Link) for call in lowered.calls]):
            results, states = run_rules(lowered.calls, updates, params, **how, extra=extra)
        else:
            results, states = _run_calls(lowered.calls, updates, params, **how, **extra)
        return results, lowered.state_of(states)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        _check_calls(self.lower(updates if params is None else params, state).calls, updates, params)

    def explain(self, params: Params) -> list[ExecutionRow]:
        rows: list[ExecutionRow] = []
        for piece in _pieces(self.lower(params, None).calls):
            update, _, places = piece[0]
            rows += (
                explain_rules(piece, params)
                if isinstance(update, Link)
                else _explain(update, mask_tree(params, places))
            )
        return rows


def lower(tx: GradientTransformation, reference: PyTree, state: State | None, places: int | None = None) -> Lowered:
    """Lower any transformation to calls; one that cannot tell is a function of whole trees.

    ``places`` are the leaves that it is for, as bits; ``None`` for all.
    """
    if not isinstance(tx.update, Lowering):
        lowered = Lowered([Call(tx.update, state)], only)
    elif isinstance(tx.update, Link):  # asks nothing of the tree
        lowered = tx.update.lower(reference, state)
    else:
        lowered = tx.update.lower(mask_tree(reference, places), state)
    return lowered if places is None else lowered.within(places)


def run(
    tx: GradientTransformation,
    updates: Updates,
    state: State,
    params: Params | None,
    *,
    stepping: bool,
    inplace: bool,
    spare_updates: bool = False,
    **extra: Any,
) -> tuple[PyTree, State]:
    """Run the update of any transformation, or with ``stepping`` the step."""
    how = {"stepping": stepping, "inplace": inplace, "spare_updates": spare_updates}
    if isinstance(tx.update, StructuredUpdate):
        return tx.update.run(updates, state, params, **how, **extra)
    results, (after,) = _run_calls([Call(tx.update, state)], updates, params, **how, **extra)
    return results, after


def check(tx: GradientTransformation, updates: PyTree, state: PyTree, params: PyTree | None) -> None:
    """Check any transformation's updates and state; one that has no check is trusted."""
    if isinstance(tx.update, StructuredUpdate):
        tx.update.check(updates, state, params)


def explain(tx: GradientTransformation, params: PyTree) -> Explanation:
    """Which executor an in-place step of these parameters uses, and why a preferred one is not.

    Args:
        tx: any transformation; rules that run as one are shown as one.
        params: the parameters; nothing is computed on them.

    Raises:
        TypeError: ``tx`` is not a transformation, or a leaf of ``params`` is not a tensor.

    >>> import torch, optimfx as fx
    >>> fx.explain(fx.chain(fx.clip_by_global_norm(1.0), fx.adamw()), {"w": torch.ones(8, 8), "b": torch.ones(8)})
    transform                    executor  leaves  elements  dtype    device  reason
    clip_by_global_norm + adamw  aten      2       72        float32  cpu     torch's own kernel
    """
    check_transformation("explain: tx", tx)
    leaves, spec = tree.flatten(params)
    for i, leaf in enumerate(leaves):
        if leaf is not None:
            tree.check_leaf(leaf, spec, i, "params")
    return Explanation(_explain(tx.update, params))


def _explain(update: Any, params: PyTree) -> list[ExecutionRow]:
    return update.explain(params) if isinstance(update, StructuredUpdate) else explain_function(update, params)


def add_updates(params: Column, updates: Column, spec: tree.Structure, *, inplace: bool) -> list[Array]:
    """Add updates to parameters; a leaf without an update stays as it is.

    Raises:
        ValueError, TypeError: an update does not fit its parameter.
    """
    for i, (param, update) in enumerate(zip(params, updates)):
        if update is not None:
            tree.check_counterpart(param, update, spec, i, ("params", "updates"))
    with tracing.no_grad_if_inplace(inplace, params):
        return [p if u is None else tree.add_in_dtype(p, u, inplace) for p, u in zip(params, updates)]


def _run_calls(
    calls: Sequence[Call],
    updates: PyTree,
    params: PyTree | None,
    *,
    stepping: bool,
    inplace: bool,
    spare_updates: bool,
    **extra: Any,
) -> tuple[PyTree, list[State]]:
    """Rules and functions in turn: the results, and the states.

    Functions may return anything, so the calls after them are planned from what they return.
    """
    if inplace and len(calls) > 1:
        _check_calls(calls, updates, params)
    reference, spec = tree.flatten(updates if params is None else params)
    current: list[Array] = tree.flatten_as(spec, updates, "updates", "params")
    if inplace and spare_updates and not (len(calls) == 1 and isinstance(calls[0].update, StructuredUpdate)):
        current = [None if x is None else x.clone() for x in current]
        spare_updates = False
    results = list(reference) if stepping else current
    pieces = _pieces(calls)
    every = (1 << len(reference)) - 1
    states: list[State] = []
    for at, piece in enumerate(pieces):
        touched = _union(piece, every)
        later = _union([call for others in pieces[at + 1 :] for call in others], every)
        ends = touched & ~later if stepping else 0
        mine = tree.unflatten(spec, mask_column(current, touched))
        seen = None if params is None else tree.unflatten(spec, mask_column(reference, touched))
        how = {"inplace": inplace, "spare_updates": spare_updates}
        if isinstance(piece[0].update, Link):
            whole, after = run_rules(piece, mine, seen, stepping=stepping, ends=ends, **how, extra=extra)
            new = spec.flatten_up_to(whole)
        else:
            new, after = _call(piece[0], mine, seen, spec, stepping=ends == touched, ends=ends, **how, **extra)
        states += after
        for i, value in enumerate(new):
            if touched >> i & 1:
                (results if ends >> i & 1 else current)[i] = value
    left = every & ~_union(calls, every)
    if stepping and left:
        rest = add_updates(mask_column(reference, left), mask_column(current, left), spec, inplace=inplace)
        results = [x if left >> i & 1 else y for i, (x, y) in enumerate(zip(rest, results))]
    return tree.unflatten(spec, results), states


def _call(
    call: Call,
    updates: PyTree,
    params: PyTree | None,
    spec: tree.Structure,
    *,
    stepping: bool,
    ends: int,
    inplace: bool,
    spare_updates: bool,
    **extra: Any,
) -> tuple[list[Array], list[State]]:
    """Return what a function gives, as a column, of which the leaves that end here are parameters."""
    if isinstance(call.update, StructuredUpdate):
        how = {"stepping": stepping and ends != 0, "inplace": inplace, "spare_updates": spare_updates}
        results, state = call.update.run(updates, call.state, params, **how, **extra)
        stepped = how["stepping"]
    else:
        results, state = call.update(updates, call.state, params, inplace=inplace, **extra)
        stepped = False
    column = tree.flatten_as(spec, results, "updates", "params")
    if ends and not stepped:
        own: list[Array] = spec.flatten_up_to(params)  # type: ignore[arg-type]
        sums = add_updates(mask_column(own, ends), mask_column(column, ends), spec, inplace=inplace)
        column = [x if ends >> i & 1 else y for i, (x, y) in enumerate(zip(sums, column))]
    return column, [state]


def _pieces(calls: Sequence[Call]) -> list[list[Call]]:
    """Rules that follow one another, and each function by itself."""
    pieces: list[list[Call]] = []
    for call in calls:
        is_rule = isinstance(call.update, Link)
        if is_rule and pieces and isinstance(pieces[-1][0].update, Link):
            pieces[-1].append(call)
        else:
            pieces.append([call])
    return pieces


def _union(calls: Sequence[Call], every: int) -> int:
    """Return the leaves that go through one of the calls."""
    bits = 0
    for call in calls:
        bits |= every if call.places is None else call.places
    return bits


def _check_calls(calls: Sequence[Call], updates: PyTree, params: PyTree | None) -> None:
    """Raise what a step would raise of trees that do not fit together."""
    for piece in _pieces(calls):
        update, state, places = piece[0]
        if not isinstance(update, StructuredUpdate) and params is not None:
            updates = params  # a function may change shapes; what it gives to the next is like the parameters
        if isinstance(update, Link):
            check_rules(piece, updates, params)
        elif isinstance(update, StructuredUpdate):
            mine = [None if each is None else mask_tree(each, places) for each in (updates, params)]
            update.check(mine[0], state, mine[1])


def mask_tree(whole: PyTree, places: int | None) -> PyTree:
    """Put ``None`` at the leaves of a tree that are not at these places."""
    if places is None:
        return whole
    leaves, spec = tree.flatten(whole)
    return tree.unflatten(spec, mask_column(leaves, places))
