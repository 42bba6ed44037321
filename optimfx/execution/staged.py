"""Steps leaves that go through different rules: segment by segment, a pass for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch

from optimfx.core import tracing, tree
from optimfx.core.link import Link
from optimfx.core.lowering import Call
from optimfx.core.types import Array, Column, Value
from optimfx.execution.advance import advance, check_leaves, measure, split_by_link
from optimfx.execution.dispatch import dispatch_global_norm, has_kernels
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory.guard import Guard
from optimfx.execution.memory.packing import PackedView
from optimfx.execution.plan.columns import Columns, writable
from optimfx.execution.plan.passes import Pass
from optimfx.execution.plan.stages import Segment, stages_of
from optimfx.execution.step import probe_step


class BoundSegment:
    """A segment with its pass and its packed counts."""

    def __init__(
        self, segment: Segment, links: Sequence[Link], columns: Columns, one_pass: Pass, *, sees_shared: bool
    ) -> None:
        self.order = segment.order
        self.ends = one_pass.stepping
        self.places = None if len(segment.places) == len(columns.leaves.grads) else segment.places
        self.one_pass = one_pass
        begins = [sum(len(link.rule.slots) for link in links[:k]) for k in range(len(links))]
        self.slots = [begins[k] + j for k in self.order for j in range(len(links[k].rule.slots))]
        shared = [column for own in self.take(columns, columns.leaves.grads).shared for column in own]
        size = len(segment.places)
        self.lines = [
            PackedView(range(size + 1)) if sees_shared and size > 1 and _are_host_numbers(column) else None
            for column in shared
        ]

    def take(self, columns: Columns, grads: Column) -> Columns:
        """Take the leaves of the segment, with gradients from among these."""
        params, _, slots = columns.leaves
        mine = Leaves(self._select(params), self._select(grads), [self._select(slots[j]) for j in self.slots])
        shared = [[self._select(column) for column in columns.shared[k]] for k in self.order]
        return columns._replace(leaves=mine, shared=shared, places=self.places)

    def put(self, column: Column, old: Column, values: Column) -> Column:
        """Put these values at the leaves of the segment, into the column from which the old ones were taken."""
        if not self.one_pass.traced and values is old:  # written in place
            return column
        if self.places is None:
            return values
        after = list(column)
        for i, value in zip(self.places, values):
            after[i] = value
        return after

    def _select(self, column: Column) -> Column:
        return column if self.places is None else [column[i] for i in self.places]


class StagedPlan:
    """The plan of the segments of trees with one structure.

    Args:
        calls: rules in turn, each with the leaves that go through it.
        columns: the leaves.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        has_params: whether there are parameters.
        ends: the leaves that go through nothing after these rules, as bits; ``None`` for all.
        traced: whether a tracer or a transform holds the leaves, for which nothing is kept.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        columns: Columns,
        *,
        stepping: bool,
        inplace: bool,
        has_params: bool,
        ends: int | None = None,
        traced: bool = False,
    ) -> None:
        self.stepping = stepping
        self.inplace = inplace
        self.has_params = has_params
        links: list[Array] = [call.update for call in calls]
        grads = columns.leaves.grads
        self.sees_shared = not traced and all(
            [Guard.can_see([t for t in column if t is not None]) for own in columns.shared for column in own]
        )
        stages, untouched = stages_of(calls, grads, measures_leaves=has_kernels(grads), ends=ends)
        self.untouched = untouched
        self.ends = ends
        self.stages = [
            [
                BoundSegment(
                    segment,
                    links,
                    columns,
                    Pass(stepping=stepping and segment.ends, inplace=inplace, traced=traced),
                    sees_shared=self.sees_shared,
                )
                for segment in stage
            ]
            for stage in stages
        ]
        segments = list(chain.from_iterable(self.stages))
        simple = len(segments) == 1 and segments[0].places is None and len(segments[0].order) == len(links)
        self.only = segments[0] if simple else None
        on_device = not traced and any([g is not None and g.is_cuda for g in grads])
        shared = chain.from_iterable(chain.from_iterable(columns.shared))
        self.counts_on_host = on_device and any([t is not None and t.is_cpu for t in shared])
        self.written = {i for segment in segments if not segment.ends for i in segment.places or range(len(grads))}

    def run(
        self, links: Sequence[Link], columns: Columns, *, spare_updates: bool, extra: Mapping[str, Value]
    ) -> tuple[Column, list[list[Column]]]:
        """Run the stages: return the results, and the columns of each link's new state.

        Args:
            links: the rules.
            columns: the leaves.
            spare_updates: whether the updates are not written.
            extra: arguments of the update, which rules may take.

        Raises:
            RuntimeError: the step is captured into a CUDA graph, and its counts are on the host.
        """
        if self.counts_on_host and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "Attempting CUDA graph capture of a step whose state counts on the host: every replay would take the "
                'step of the capture. Move the state before it: optree.tree_map(lambda t: t.to("cuda"), state).'
            )
        if self.inplace and self.only is None and (columns.has_sparse or not self.has_params):
            # Check before any stage writes; with parameters and dense gradients there is nothing to refuse.
            for segment in chain.from_iterable(self.stages):
                rows = range(len(columns.leaves.grads)) if segment.places is None else segment.places
                for k in segment.order:
                    check_leaves(links[k], probe_step(links[k]).scalars, columns, rows, has_params=self.has_params)
        if self.inplace and self.written:
            grads = columns.leaves.grads
            if spare_updates:
                columns = columns.with_grads([g.clone() if i in self.written else g for i, g in enumerate(grads)])
            else:
                columns = columns.with_grads(writable(grads))
        if self.only is not None:
            given = self._measure([self.only], links, columns, columns.leaves.grads)
            return self._advance(self.only, links, columns, {**extra, **given})
        params, current, slots = columns.leaves
        results = params
        after = split_by_link(links, columns.shared, slots)
        for stage in self.stages:
            given = self._measure(stage, links, columns, current)
            for segment in stage:
                mine = segment.take(columns, current)
                out, new = self._advance(segment, [links[k] for k in segment.order], mine, {**extra, **given})
                if segment.ends:
                    results = segment.put(results, mine.leaves.params, out)
                else:
                    current = segment.put(current, mine.leaves.grads, out)
                old = split_by_link([links[k] for k in segment.order], mine.shared, mine.leaves.slots)
                for k, *own in zip(segment.order, old, new):
                    after[k] = [segment.put(*each) for each in zip(after[k], *own)]
        if not self.stepping:
            results = current
        if self.stepping and self.ends is not None:
            results = [x if self.ends >> i & 1 else y for i, (x, y) in enumerate(zip(results, current))]
        if self.stepping and self.untouched:
            results = list(results)
            for i in self.untouched:
                results[i] = tree.add_in_dtype(params[i], current[i], self.inplace)
        return results, after

    def _advance(
        self, segment: BoundSegment, links: Sequence[Link], columns: Columns, given: Mapping[str, Value]
    ) -> tuple[Column, list[list[Column]]]:
        return advance(
            links,
            columns,
            segment.one_pass,
            has_params=self.has_params,
            inplace=self.inplace,
            lines=segment.lines,
            given=given,
        )

    def _measure(
        self, stage: Sequence[BoundSegment], links: Sequence[Link], columns: Columns, grads: Column
    ) -> dict[str, Value]:
        """Measure the leaves of a stage, as its first rule wants."""
        first = links[stage[0].order[0]]
        if not first.rule.measures:
            return {}
        if first.rule.needs_global_norm:
            parts = [grads if segment.places is None else [grads[i] for i in segment.places] for segment in stage]
            norm = dispatch_global_norm(parts[0] if len(parts) == 1 else [g for part in parts for g in part])
            return {"global_norm": tracing.read_number(norm)}
        taken = [segment.take(columns, grads) for segment in stage]
        traced = stage[0].one_pass.traced
        rows = [row for own in taken for row in measure(first, own, has_params=self.has_params, traced=traced)]
        totals = [tracing.read_number(tree.add_up_processes(sum(values))) for values in zip(*rows)]
        return dict(zip(first.rule.totals, totals))


def _are_host_numbers(column: Column) -> bool:
    """Whether they are tensors whose values the host may read."""
    return all([t.is_cpu and not t.requires_grad for t in column])
