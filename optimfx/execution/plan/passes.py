"""Plans passes: which executor steps which leaves, kept while their metadata is unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from optimfx.core.types import Key, Value
from optimfx.execution.dispatch import select
from optimfx.execution.executors.base import BoundStep
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.step import Steps, fill_param_dtype, split, steps_at, wants_dtype

K = TypeVar("K", bound=Key)
T = TypeVar("T")

MAX_CACHED = 1024
"""Plans that a pass keeps: one for each branch that its rules have taken, and for each set of leaves that did."""


class Part(NamedTuple):
    """Leaves of one device, layout and dtypes, which are stepped together."""

    places: list[int] | None  # indices of the leaves; None for all
    typed: bool  # whether a scalar takes the dtype of the parameters
    run: BoundStep


class Plan:
    """The plan of leaves that take the same steps: their parts, and the executor of each.

    Attributes:
        run: takes the step; it is given also the numbers among the scalars, one after the other.
        needs_scalars: whether an executor asks for the scalars.
    """

    run: BoundStep

    def __init__(
        self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool, names: tuple[str, ...] | None
    ) -> None:
        self.stepping = stepping
        chosen = []
        for places in _groups(leaves):
            part = leaves if places is None else leaves.take(places)
            mine = fill_param_dtype(steps if places is None else steps_at(steps, places), part.params[0])
            changed = places is not None or wants_dtype(steps)
            chosen.append(
                (
                    places,
                    changed,
                    part,
                    mine,
                    select(mine, part, stepping=stepping, inplace=inplace, names=names).executor,
                )
            )
        # If no executor reads scalars, a step skips computing them.
        self.needs_scalars = any(executor.reads_scalars for *_, executor in chosen)
        self.parts = [
            Part(places, changed, executor.bind(mine, part, stepping=stepping, inplace=inplace))
            for places, changed, part, mine, executor in chosen
        ]
        places, changed, run = self.parts[0]
        self.run = run if places is None and not changed else self._run_parts

    def _run_parts(self, steps: Steps, numbers: Sequence[Value], leaves: Leaves) -> Results:
        places, changed, run = self.parts[0]
        if places is None:
            return run(fill_param_dtype(steps, leaves.params[0]), numbers, leaves)
        results = list(leaves.params if self.stepping else leaves.grads)
        slots = [list(column) for column in leaves.slots]
        for places, changed, run in self.parts:
            chosen = places or ()
            part = leaves.take(chosen)
            mine = fill_param_dtype(steps_at(steps, chosen), part.params[0]) if changed else steps
            out, new = run(mine, split(mine)[1] if changed else numbers, part)
            for column, values in zip((results, *slots), (out, *new)):
                for i, value in zip(chosen, values):
                    column[i] = value
        return results, slots


class Pass:
    """The rules that run as one on leaves of one metadata, and their plans.

    Args:
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        names: the executors that were asked for; ``None`` for those of the context.
        traced: whether a tracer or a transform holds the leaves, for which nothing is kept.
    """

    def __init__(
        self, *, stepping: bool, inplace: bool, names: tuple[str, ...] | None = None, traced: bool = False
    ) -> None:
        self.how: dict[str, Any] = {"stepping": stepping, "inplace": inplace, "names": names}
        self.stepping = stepping
        self.inplace = inplace
        self.traced = traced
        self.plans: dict[Key, Plan] = {}
        self.last: dict[tuple[int, ...], tuple[Plan, Key, Key]] = {}  # the plan of each run, with its key

    def run(self, leaves: Leaves, steps: Steps, like: Key) -> Results:
        """Step leaves that all take these steps: return the results, and the new slots.

        Scalars may be vectors, a number for each leaf.

        Args:
            leaves: the leaves.
            steps: what they take.
            like: what is equal for steps whose hyperparameters are alike (the same ones are 0); ``None`` if that is not
                known.
        """
        plan, numbers = self._plan((), leaves, steps, like)
        return plan.run(steps, numbers, leaves)

    def run_each(
        self, leaves: Leaves, runs: Sequence[Sequence[int]], steps: Sequence[Steps], likes: Sequence[Key]
    ) -> Results:
        """Step runs of leaves: return the results, and the new slots; what is in no run stays as it is.

        Every run is planned before one of them writes.
        """
        parts = [leaves.take(run) for run in runs]
        plans = [self._plan(tuple(run), *each) for run, each in zip(runs, zip(parts, steps, likes))]
        if self.inplace and self.stepping and not self.traced:
            # In place, no results have to be collected, which for hundreds of runs takes as long as the steps.
            for (plan, numbers), part, each in zip(plans, parts, steps):
                plan.run(each, numbers, part)
            return leaves.params, leaves.slots
        results = list(leaves.params if self.stepping else leaves.grads)
        slots = [list(column) for column in leaves.slots]
        for run, (plan, numbers), part, each in zip(runs, plans, parts, steps):
            out, new = plan.run(each, numbers, part)
            for column, values in zip((results, *slots), (out, *new)):
                for i, value in zip(run, values):
                    column[i] = value
        return results, slots

    def _plan(self, run: tuple[int, ...], leaves: Leaves, steps: Steps, like: Key) -> tuple[Plan, Sequence[Value]]:
        """Plan a run; return the plan, and the numbers among the scalars of its steps."""
        if self.traced:
            return Plan(steps, leaves, **self.how), ()
        known = self.last.get(run)
        if known is not None and like is not None and known[1] == like and not known[0].needs_scalars:
            return known[0], ()
        static, numbers = split(steps)
        if known is None or known[2] != static or known[1] != like:
            plan = self.plans.get((run, static)) or _keep(self.plans, (run, static), Plan(steps, leaves, **self.how))
            known = _keep(self.last, run, (plan, like, static))
        return known[0], numbers


def _keep(kept: dict[K, T], key: K, value: T) -> T:
    """Keep the value under the key until there are too many."""
    while len(kept) >= MAX_CACHED:
        kept.pop(next(iter(kept)), None)
    kept[key] = value
    return value


def _groups(leaves: Leaves) -> Sequence[list[int] | None]:
    """Return the places of leaves that share device, layout and dtypes; ``None`` for those of all."""
    groups: dict[Key, list[int]] = {}
    for i, grad, *rest in zip(range(len(leaves.grads)), leaves.grads, leaves.params, *leaves.slots):
        kind = (grad.device, grad.layout, *[None if t is None else t.dtype for t in (grad, *rest)])
        groups.setdefault(kind, []).append(i)
    return [None] if len(groups) <= 1 else list(groups.values())
