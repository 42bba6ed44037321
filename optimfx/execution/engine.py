"""From trees to leaves and back: trees that are alike are taken apart, stepped and put together by one plan."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from optimfx.core import tracing, tree
from optimfx.core.link import Link
from optimfx.core.tree import PyTree
from optimfx.execution.advance import advance
from optimfx.execution.dispatch import forced
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory.guard import Guard
from optimfx.execution.memory.packing import Line
from optimfx.execution.plan.columns import ABSENT, Columns
from optimfx.execution.plan.passes import Pass

KEPT = 128
"""Plans that are kept, of all transformations together."""

_plans: OrderedDict[Any, TreePlan] = OrderedDict()


def run(
    links: Sequence[Link],
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
    if tracing.active():
        columns = Columns.of(links, updates, states, params)
        if inplace and stepping:
            # What a tracer holds has no address. Of an ``id``, a compiler would make a constant.
            _check_apart(columns, columns.leaves.params)
        elif inplace:
            columns = columns.writable()
        one_pass = Pass(stepping=stepping, inplace=inplace, traced=True)
        with tracing.donating(inplace, columns.leaves.params):
            results, after = advance(links, columns, one_pass, has_params=params is not None, inplace=inplace)
        return columns.trees(links, results, after)
    trees = [updates] if params is None else [params, updates]
    for link, state in zip(links, states):
        trees += state if isinstance(state, link.state_type) else (state,)
    flat = [ABSENT_TREE if subtree == () else tree.flatten_with_key(subtree) for subtree in trees]
    leaves = [leaves for leaves, _ in flat]
    missing = tuple([i for i, grad in enumerate(leaves[0 if params is None else 1]) if grad is None])
    how = (params is None, stepping, inplace, torch.is_grad_enabled(), forced(), missing)
    first = next((leaf for leaf in leaves[0] if isinstance(leaf, Tensor)), None)
    like = None if first is None else (first.shape, first.dtype)
    key = (like, tuple([key for _, key in flat]), how, tuple([link.signature for link in links]))
    plan = _plans.get(key)
    known = None if plan is None else plan.columns_of(leaves)
    if plan is None or known is None:
        columns = Columns.of(links, updates, states, params)
        plan = TreePlan(links, columns, trees, flat, stepping=stepping, inplace=inplace, has_params=params is not None)
        if plan.guard is not None:
            _plans[key] = plan
            while len(_plans) > KEPT:
                _plans.popitem(last=False)
    else:
        columns = known
    return plan.run(links, columns)


ABSENT_TREE: tuple[list[Any], Any] = [], ()


class TreePlan:
    """How trees that are alike are stepped.

    Args:
        links: rules that follow one another.
        columns: the leaves of the trees, which have been checked against each other.
        trees: the parameters if there are any, the updates, and the fields of the states.
        flat: their leaves and keys.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        has_params: whether there are parameters.
    """

    def __init__(
        self,
        links: Sequence[Link],
        columns: Columns,
        trees: Sequence[PyTree],
        flat: Sequence[tuple[Sequence[Any], Any]],
        *,
        stepping: bool,
        inplace: bool,
        has_params: bool,
    ) -> None:
        self.stepping = stepping
        self.inplace = inplace
        self.has_params = has_params
        self.one_pass = Pass(stepping=stepping, inplace=inplace)
        self.spec, self.live, self.has_sparse = columns.spec, columns.live, columns.has_sparse
        self.build = tree.builder_of(flat[0][1])
        size = len(columns.leaves.grads)
        self.pick = [_picker(subtree, *each, self.spec, size) for subtree, each in zip(trees, flat)]
        self.sizes = [(link.shares, len(link.state_type._fields)) for link in links]
        shared = [column for own in columns.shared for column in own]
        self.sees_shared = all([Guard.can_see(column) for column in shared])
        self.lines = [
            Line(range(size + 1)) if self.sees_shared and size > 1 and _are_host_numbers(column) else None
            for column in shared
        ]
        tensors = self._tensors(columns.leaves, columns.shared)
        self.guard = Guard(tensors) if Guard.can_see(tensors) else None
        slots = iter(columns.leaves.slots)
        # Of each field of each state, whether some leaves have it, and all.
        self.presence = [
            [_presence(column) for column in (*own, *[next(slots) for _ in link.rule.slots])]
            for link, own in zip(links, columns.shared)
        ]

    def columns_of(self, leaves: Sequence[Sequence[Any]]) -> Columns | None:
        """The leaves of each tree as columns, if they are as they were."""
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
        return Columns(mine, shared, self.spec, self.live, self.has_sparse)

    def _tensors(self, leaves: Leaves, shared: Sequence[Sequence[Any]]) -> list[Tensor]:
        """All that are there."""
        columns = [*leaves.columns(), *chain.from_iterable(shared)] if self.sees_shared else leaves.columns()
        return [t for column in columns for t in column if t is not None]

    def run(self, links: Sequence[Link], columns: Columns) -> tuple[PyTree, list[PyTree]]:
        """The results, and the new states."""
        if self.inplace and self.stepping:
            _check_apart(columns, [None if p is None else p.data_ptr() or None for p in columns.leaves.params])
        elif self.inplace:
            columns = columns.writable()
        recording = torch.is_grad_enabled()
        if self.inplace and recording:
            torch._C._set_grad_enabled(False)
        try:
            results, after = advance(
                links,
                columns,
                self.one_pass,
                has_params=self.has_params,
                inplace=self.inplace,
                lines=self.lines,
            )
        finally:
            torch._C._set_grad_enabled(recording)
        states = [
            link.state_type(*map(self._field, presence, own))
            for link, presence, own in zip(links, self.presence, after)
        ]
        return self.build(results), states

    def _field(self, presence: tuple[bool, bool], column: Sequence[Any]) -> PyTree:
        some, every = presence
        if not some:
            return ABSENT
        return self.build(column if every else [ABSENT if x is None else x for x in column])


def _check_apart(columns: Columns, places: Sequence[Any]) -> None:
    """Refuse parameters that are at one place, which a step in place would step twice; ``None`` is no place."""
    if len(set(places)) == len(places):
        return
    first: dict[Any, int] = {}
    for i, (place, param) in enumerate(zip(places, columns.leaves.params)):
        if place is not None and param.numel() and first.setdefault(place, i) != i:
            one, other = (tree.path(columns.spec, at, "params") for at in (first[place], i))
            raise ValueError(
                f"{other} and {one} are one tensor, which a step in place would step twice. Keep it under one key "
                f"(model.named_parameters() does), or step with inplace=False."
            )


def _picker(
    subtree: PyTree, leaves: Sequence[Any], key: Any, spec: PyTreeSpec, size: int
) -> Callable[[Sequence[Any]], list[Any]] | None:
    """What finds a column among the leaves of its tree; ``None`` if these are the column."""
    if key == ():
        return lambda leaves: [None] * size
    # The same tree with numbers in place of its leaves says where each leaf is.
    places: list[Any] = spec.flatten_up_to(tree.builder_of(key)(range(len(leaves))))
    if places == list(range(size)) and len(leaves) == size:
        return None
    return lambda leaves: [None if place == () else leaves[place] for place in places]


def _presence(column: Sequence[Any]) -> tuple[bool, bool]:
    there = [x is not None for x in column]
    return any(there), all(there)


def _are_host_numbers(column: Sequence[Any]) -> bool:
    """Whether they are tensors whose values the host may read."""
    return all([t.is_cpu and not t.requires_grad for t in column])
