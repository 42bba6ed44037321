"""Divides the leaves of a program into segments that go through the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from optimfx.core import Locality
from optimfx.core.lowering import Call
from optimfx.core.rule import Rule
from optimfx.core.types import Column


class Segment(NamedTuple):
    """Leaves that go through the same rules in one pass."""

    order: tuple[int, ...]  # indices of the rules
    places: list[int]  # indices of the leaves
    ends: bool  # whether it is the last for these leaves


class Stages(NamedTuple):
    """The segments of a program, in turn.

    Those of one stage begin with the same rule, which may measure all of their leaves.
    """

    stages: list[list[Segment]]
    untouched: list[int]  # leaves that go through no rule


def stages_of(calls: Sequence[Call], leaves: Column, *, measures_leaves: bool, ends: int | None = None) -> Stages:
    """Divide the leaves into segments.

    Args:
        calls: rules in turn, each with the leaves that go through it.
        leaves: ``None`` for a leaf that is skipped.
        measures_leaves: whether rules that need a norm of each leaf join a pass, as kernels measure them before it.
        ends: the leaves that go through nothing after these calls, as bits; ``None`` for all.
    """
    rules = [call.update.rule for call in calls]  # type: ignore[attr-defined]
    numbers = range(len(calls))
    goes = [-1 if call.places is None else call.places for call in calls]  # -1 has all bits
    lanes: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for i, leaf in zip(range(len(leaves)), leaves):
        if leaf is not None:
            lane = tuple([k for k, places in zip(numbers, goes) if places >> i & 1])
            lanes.setdefault((lane, ends is None or bool(ends >> i & 1)), []).append(i)
    segments: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    untouched = []
    for (lane, last), places in lanes.items():
        passes = _fusion_groups(lane, rules, measures_leaves)
        for at, order in enumerate(passes):
            segments.setdefault((order, last and at == len(passes) - 1), []).extend(places)
        if not passes:
            untouched += places
    # A rule that measures several lanes begins a pass in each, after all passes before it.
    stages: dict[int, list[Segment]] = {}
    for (order, last), places in segments.items():
        stages.setdefault(order[0], []).append(Segment(order, sorted(places), last))
    return Stages([stages[first] for first in sorted(stages)], untouched)


def _fusion_groups(lane: Sequence[int], rules: Sequence[Rule], measures_leaves: bool) -> list[tuple[int, ...]]:
    """Divide rules into passes that run as one: elementwise ones, of which the first may measure all leaves."""
    passes: list[tuple[int, ...]] = []
    joins = False
    for k in lane:
        rule = rules[k]
        can_join = rule.elementwise or (measures_leaves and rule.locality is Locality.NORM)
        if joins and can_join and not rule.measures:
            passes[-1] += (k,)
        else:
            passes.append((k,))
        joins = can_join
    return passes
