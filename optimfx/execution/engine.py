"""Flattens trees, steps their leaves by a cached plan, and unflattens the results."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from optimfx.core import tracing, tree
from optimfx.core.link import Link
from optimfx.core.lowering import Call
from optimfx.core.types import Array, Column, Key, PyTree, Value
from optimfx.execution.advance import split_by_link
from optimfx.execution.dispatch import requested_executors
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory.guard import Guard
from optimfx.execution.plan.columns import ABSENT, Columns
from optimfx.execution.staged import StagedPlan

MAX_CACHED = 128
"""Plans that are kept, of all transformations together."""

_plans: OrderedDict[Key, TreePlan] = OrderedDict()


def run_rules(
    calls: Sequence[Call],
    updates: PyTree,
    params: PyTree | None,
    *,
    stepping: bool,
    inplace: bool,
    spare_updates: bool,
    extra: Mapping[str, Value],
    ends: int | None = None,
) -> tuple[PyTree, list[PyTree]]:
    """One update of every leaf that has a gradient, by rules in turn; and their states.

    With ``stepping``, the last one of a leaf gives the new parameter in place of the update. What one hands to the next
    in a pass is not stored. Nothing is written before everything is checked.

    Args:
        calls: the rules, each with the leaves that go through it.
        updates: a tree like the parameters.
        params: the parameters, if there are any.
        stepping: whether the results are parameters.
        inplace: whether states, and what the results come from, are written.
        spare_updates: whether the updates are not.
        ends: the leaves that go through nothing after these rules, as bits; ``None`` for all.
        extra: further arguments of the update, of which rules may take some.

    Raises:
        ValueError: a rule takes an argument that was not given.
    """
    links: list[Array] = [call.update for call in calls]
    extra = _check_extra(links, extra)
    how: dict[str, Any] = {"stepping": stepping, "inplace": inplace, "has_params": params is not None, "ends": ends}
    if tracing.active():
        columns = Columns.of(calls, updates, params)
        staged = StagedPlan(calls, columns, **how, traced=True)
        if inplace and stepping:
            # Traced tensors have no address, and a compiler would bake in an ``id``.
            _check_apart(columns, columns.leaves.params)
        with tracing.no_grad_if_inplace(inplace, columns.leaves.params):
            results, after = staged.run(links, columns, spare_updates=spare_updates, extra=extra)
        return columns.trees(links, results, after)
    trees = [updates] if params is None else [params, updates]
    for link, call in zip(links, calls):
        trees += call.state if isinstance(call.state, link.state_type) else (call.state,)
    flat = [ABSENT_TREE if subtree == () else tree.flatten(subtree) for subtree in trees]
    leaves = [leaves for leaves, _ in flat]
    missing = tuple([i for i, grad in enumerate(leaves[0 if params is None else 1]) if grad is None])
    context = (*how.values(), torch.is_grad_enabled(), requested_executors(), missing)
    first = next((leaf for leaf in leaves[0] if isinstance(leaf, Tensor)), None)
    like = None if first is None else (first.shape, first.dtype)
    signatures = tuple([(link.signature, call.places) for link, call in zip(links, calls)])
    key = (like, tuple([key for _, key in flat]), context, signatures)
    plan = _plans.get(key)
    known = None if plan is None else plan.columns_of(leaves)
    if plan is None or known is None:
        columns = Columns.of(calls, updates, params)
        plan = TreePlan(calls, columns, trees, flat, **how)
        if plan.guard is not None:
            _plans[key] = plan
            while len(_plans) > MAX_CACHED:
                _plans.popitem(last=False)
    else:
        columns = known
    return plan.run(links, columns, spare_updates=spare_updates, extra=extra)


def _check_extra(links: Sequence[Link], extra: Mapping[str, Value]) -> dict[str, Value]:
    """Return the arguments of the update that rules take, as numbers where their values may be read."""
    taken = {}
    for link in links:
        for name in link.rule.extra:
            if extra.get(name) is None:
                raise ValueError(f"{link.name} needs {name}: call update(updates, state, params, {name}=...).")
            taken[name] = tracing.read_number(extra[name])
    return taken


ABSENT_TREE: tuple[list[Array], Any] = [], ()


class TreePlan:
    """A plan for trees of one structure, whose leaves have one metadata.

    Args:
        calls: rules in turn.
        columns: the leaves of the trees, which have been checked against each other.
        trees: the parameters if there are any, the updates, and the fields of the states.
        flat: their leaves and keys.
        how: as for :class:`StagedPlan`.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        columns: Columns,
        trees: Sequence[PyTree],
        flat: Sequence[tuple[Column, Any]],
        **how: Any,
    ) -> None:
        self.has_params = how["has_params"]
        self.inplace = how["inplace"]
        self.steps_in_place = how["stepping"] and how["inplace"]
        self.staged = StagedPlan(calls, columns, **how)
        self.spec, self.has_sparse = columns.spec, columns.has_sparse
        self.build = flat[0][1].unflatten
        size = len(columns.leaves.grads)
        self.pick = [_picker(subtree, *each, self.spec, size) for subtree, each in zip(trees, flat)]
        links: list[Array] = [call.update for call in calls]
        self.sizes = [(link.num_shared_fields, len(link.state_type._fields)) for link in links]
        tensors = self._tensors(columns.leaves, columns.shared)
        self.guard = Guard(tensors) if Guard.can_see(tensors) else None
        # For each field of each state: whether some leaves have it, and whether all do.
        self.presence = [
            [_presence(column) for column in own] for own in split_by_link(links, columns.shared, columns.leaves.slots)
        ]

    def columns_of(self, leaves: Sequence[Column]) -> Columns | None:
        """Return the leaves of each tree as columns, if they are as they were."""
        columns = iter([each if pick is None else pick(each) for pick, each in zip(self.pick, leaves)])
        params = next(columns) if self.has_params else [None] * len(leaves[0])
        grads = next(columns)
        shared, slots = [], []
        for shares, fields in self.sizes:
            shared.append([next(columns) for _ in range(shares)])
            slots += [next(columns) for _ in range(fields - shares)]
        mine = Leaves(params, grads, slots)
        if self.guard is None or not self.guard.admits(self._tensors(mine, shared)):
            return None
        return Columns(mine, shared, self.spec, self.has_sparse)

    def _tensors(self, leaves: Leaves, shared: Sequence[Column]) -> list[Tensor]:
        """All that are there."""
        columns = leaves.columns()
        if self.staged.sees_shared:
            columns += chain.from_iterable(shared)
        return [t for column in columns for t in column if t is not None]

    def run(
        self, links: Sequence[Link], columns: Columns, *, spare_updates: bool, extra: Mapping[str, Value]
    ) -> tuple[PyTree, list[PyTree]]:
        """Run the plan: return the results, and the new states."""
        if self.steps_in_place:
            _check_apart(columns, [None if p is None else p.data_ptr() or None for p in columns.leaves.params])
        recording = torch.is_grad_enabled()
        if self.inplace and recording:
            torch._C._set_grad_enabled(False)
        try:
            results, after = self.staged.run(links, columns, spare_updates=spare_updates, extra=extra)
        finally:
            torch._C._set_grad_enabled(recording)
        states = [
            link.state_type(*map(self._field, presence, own))
            for link, presence, own in zip(links, self.presence, after)
        ]
        return self.build(results), states

    def _field(self, presence: tuple[bool, bool], column: Column) -> PyTree:
        some, every = presence
        if not some:
            return ABSENT
        return self.build(column if every else [ABSENT if x is None else x for x in column])


def _check_apart(columns: Columns, places: Column) -> None:
    """Refuse parameters that are at one place, which a step in place would step twice; ``None`` is not a place."""
    if len(set(places)) == len(places):
        return
    first: dict[Key, int] = {}
    for i, (place, param) in enumerate(zip(places, columns.leaves.params)):
        if place is not None and param.numel() and first.setdefault(place, i) != i:
            one, other = (tree.path(columns.spec, at, "params") for at in (first[place], i))
            raise ValueError(
                f"{other} and {one} are one tensor, which a step in place would step twice. Keep it under one key "
                f"(model.named_parameters() does), or step with inplace=False."
            )


def _picker(
    subtree: PyTree, leaves: Column, key: tree.Structure, spec: tree.Structure, size: int
) -> Callable[[Column], list[Array]] | None:
    """Return what picks a column from the leaves of its tree; ``None`` if these are the column."""
    if key == ():
        return lambda leaves: [None] * size
    # A tree of indices shows where each leaf goes.
    places: list[Array] = spec.flatten_up_to(key.unflatten(range(len(leaves))))
    if places == list(range(size)) and len(leaves) == size:
        return None
    return lambda leaves: [None if place == () else leaves[place] for place in places]


def _presence(column: Column) -> tuple[bool, bool]:
    there = [x is not None for x in column]
    return any(there), all(there)
