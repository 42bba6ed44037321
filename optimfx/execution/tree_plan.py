"""Trees that are stepped again and again: where their leaves are, found out once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from optimfx import modes, tree
from optimfx.execution.advance import advance
from optimfx.execution.columns import Columns
from optimfx.execution.flat import Line
from optimfx.execution.leaves import Leaves
from optimfx.execution.planning import Guard, Pass
from optimfx.execution.select import forced
from optimfx.tree import PyTree

KEPT = 128
"""Plans that are kept, of all transformations together."""

_plans: OrderedDict[Any, TreePlan] = OrderedDict()


def plan_for(
    links: Sequence[Any],
    updates: PyTree,
    states: Sequence[PyTree],
    params: PyTree | None,
    *,
    stepping: bool,
    inplace: bool,
) -> tuple[TreePlan, Columns]:
    """The plan for these trees, and their columns: that of the last ones that were like them, or a new one."""
    given = (updates, *states) if params is None else (params, updates, *states)
    leaves, spec = tree.flatten(given)
    absent = tuple([i for i, leaf in enumerate(leaves) if leaf is None])
    how = (params is None, stepping, inplace, torch.is_grad_enabled(), forced(), absent)
    key = (spec, how, tuple([link.signature for link in links]))
    plan = _plans.get(key)
    columns = None if plan is None else plan.columns_of(leaves)
    if plan is None or columns is None:
        columns = Columns.of(links, updates, states, params)
        plan = TreePlan(links, columns, spec, stepping=stepping, inplace=inplace, has_params=params is not None)
        if plan.guard is not None:
            _plans[key] = plan
            while len(_plans) > KEPT:
                _plans.popitem(last=False)
    return plan, columns


class TreePlan:
    """How trees that are alike are stepped.

    Args:
        links: rules that follow one another.
        columns: the leaves of the trees, which have been checked against each other.
        spec: the structure of the parameters, the updates and the states together.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        has_params: whether there are parameters.
    """

    def __init__(
        self,
        links: Sequence[Any],
        columns: Columns,
        spec: PyTreeSpec,
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
        # The same trees with numbers in place of their leaves say where each leaf is.
        places = list(tree.unflatten(spec, range(spec.num_leaves)))
        size = len(columns.leaves.grads)
        self.params = _Picker(columns.spec.flatten_up_to(places.pop(0)) if has_params else [None] * size)
        self.grads = _Picker(columns.spec.flatten_up_to(places.pop(0)))
        self.shared: list[list[_Picker]] = []
        self.slots: list[_Picker] = []
        for link, state in zip(links, places):
            fields = [_Picker([None] * size if at == () else columns.spec.flatten_up_to(at)) for at in state]
            self.shared.append(fields[: link.shares])
            self.slots += fields[link.shares :]
        self.lines = [Line(range(size + 1)) if size > 1 else None for own in columns.shared for _ in own]
        tensors = _tensors(columns.leaves)
        self.guard = Guard(tensors) if Guard.can_see(tensors) else None
        self.out_spec: PyTreeSpec | None = None

    def columns_of(self, leaves: Sequence[Any]) -> Columns | None:
        """The leaves as columns, if they are as they were."""
        slots = [pick(leaves) for pick in self.slots]
        mine = Leaves(self.params(leaves), self.grads(leaves), slots)
        if self.guard is None or not self.guard.admits(_tensors(mine)):
            return None
        shared = [[pick(leaves) for pick in own] for own in self.shared]
        return Columns(mine, shared, self.spec, self.live, self.has_sparse)

    def run(self, links: Sequence[Any], columns: Columns) -> tuple[PyTree, list[PyTree]]:
        """The results, and the new states."""
        if self.inplace and self.stepping:
            self._check_apart(columns.leaves.params)
        elif self.inplace:
            columns = columns._replace(leaves=columns.leaves._replace(grads=_writable(columns.leaves.grads)))
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
        if self.out_spec is None:
            out = columns.trees(links, results, after)
            self.out_spec = tree.structure(out)
            return out
        leaves = list(results)
        for column in chain.from_iterable(after):
            leaves += [x for x in column if x is not None]
        return tree.unflatten(self.out_spec, leaves)

    def _check_apart(self, params: Sequence[Any]) -> None:
        """Refuse parameters that are one tensor, which a step in place would step twice."""
        addresses = [0 if p is None else p.data_ptr() for p in params] if self.has_params else []
        if len(set(addresses)) == len(addresses):
            return
        first: dict[int, int] = {}
        for i, address in enumerate(addresses):
            if address and params[i].numel() and first.setdefault(address, i) != i:
                one, other = (tree.path(self.spec, at, "params") for at in (first[address], i))
                raise ValueError(
                    f"{other} and {one} are one tensor, which a step in place would step twice. Keep it under one key "
                    f"(model.named_parameters() does), or step with inplace=False."
                )


class _Picker:
    """A column of leaves, by their places among all."""

    def __init__(self, places: Sequence[int | None]) -> None:
        self.places = [None if place == () else place for place in places]
        self.nowhere = all([place is None for place in self.places])
        begin = self.places[0] if self.places else 0
        in_order = begin is not None and self.places == list(range(begin, begin + len(self.places)))
        self.range = slice(begin, (begin or 0) + len(self.places)) if in_order else None

    def __call__(self, leaves: list[Any]) -> list[Any]:
        if self.range is not None:
            return leaves[self.range]
        return [None if place is None else leaves[place] for place in self.places]


def _tensors(leaves: Leaves) -> list[Tensor]:
    """All that are there."""
    return [t for column in leaves.columns() for t in column if t is not None]


def _writable(grads: Sequence[Any]) -> list[Any]:
    """Gradients that can be written over: not one whose elements share memory, nor one that stands for two leaves."""
    seen: set[int] = set()
    own = []
    for grad in grads:
        if grad is not None and grad.layout is torch.strided:
            address = grad.data_ptr()
            if 0 in grad.stride() or address in seen:
                grad = grad.clone(memory_format=torch.contiguous_format)
            seen.add(address)
        own.append(grad)
    return own
