"""What is decided about leaves once, and holds for as long as the next ones are like them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from optimfx import modes
from optimfx.execution.hyper import Steps, own, split, typed, wants_dtype
from optimfx.execution.leaves import PLAIN, Leaves
from optimfx.execution.select import select

Results = tuple[list[Any], list[list[Any]]]
"""The results, and the new slots by column."""
KEPT = 16
"""Plans that a pass keeps: one for each branch that its rules have taken, and for each set of leaves that did."""


class Guard:
    """Sees in one call whether tensors are as these are, in all but their values and their addresses."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.count = len(tensors)
        self.guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)

    def admits(self, tensors: Sequence[Any]) -> bool:
        """Whether they are."""
        return len(tensors) == self.count and self.guards.check(*tensors)

    @staticmethod
    def can_see(tensors: Iterable[Any]) -> bool:
        """Whether it sees all that there is to these."""
        return all(type(t) in TENSORS and t.layout is torch.strided for t in tensors)


TENSORS = PLAIN - {type(None)}


class Part(NamedTuple):
    """Leaves that are stepped together: they share device, layout and dtypes."""

    places: list[int] | None  # of all, if not these are all
    typed: bool  # whether a scalar takes the dtype of the parameters
    run: Callable[[Steps, Sequence[Any], Leaves], Results]


class Plan:
    """How leaves that take the same steps are stepped: in which parts, and by which executors."""

    def __init__(
        self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool, names: tuple[str, ...] | None
    ) -> None:
        self.stepping = stepping
        chosen = []
        for places in _groups(leaves):
            part = leaves if places is None else leaves.take(places)
            mine = typed(steps if places is None else own(steps, places), part.params[0])
            changed = places is not None or wants_dtype(steps)
            chosen.append((places, changed, part, mine, select(mine, part, stepping, inplace, names).executor))
        # Where nobody asks for the scalars, a step goes without them.
        self.needs_scalars = not all(executor.takes_hyper for *_, executor in chosen)
        self.parts = [
            Part(places, changed, executor.bind(mine, part, stepping=stepping, inplace=inplace))
            for places, changed, part, mine, executor in chosen
        ]

    def run(self, steps: Steps, numbers: Sequence[Any], leaves: Leaves) -> Results:
        """Take the step; ``numbers`` are those of the scalars, one after the other."""
        places, changed, run = self.parts[0]
        if places is None:
            return run(typed(steps, leaves.params[0]) if changed else steps, numbers, leaves)
        results = list(leaves.params if self.stepping else leaves.grads)
        slots = [list(column) for column in leaves.slots]
        for places, changed, run in self.parts:
            part = leaves.take(places or ())
            mine = typed(own(steps, places), part.params[0]) if changed else steps
            out, new = run(mine, split(mine)[1] if changed else numbers, part)
            for column, values in zip((results, *slots), (out, *new)):
                for i, value in zip(places or (), values):
                    column[i] = value
        return results, slots


class Pass:
    """Rules on leaves that are alike, which are found again by a :class:`Guard`.

    Args:
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        names: the executors that were asked for; ``None`` for those of the context.
    """

    def __init__(self, *, stepping: bool, inplace: bool, names: tuple[str, ...] | None = None) -> None:
        self.how: dict[str, Any] = {"stepping": stepping, "inplace": inplace, "names": names}
        self.stepping = stepping
        self.plans: dict[Any, Plan] = {}
        self.direct: tuple[Any, Plan] | None = None

    def run(
        self, leaves: Leaves, runs: Sequence[Sequence[int]] | None, steps: Sequence[Steps], like: Any = None
    ) -> Results:
        """The results, and the new slots, of runs of leaves with their steps; what is in no run stays as it is.

        ``None`` is one run of all leaves, whose steps may have scalars that are vectors, a number for each leaf. Every
        run is planned before one of them writes.

        ``like`` is the same object for steps whose hyperparameters are alike: the same ones are 0.
        """
        if runs is None:
            if self.direct is not None and self.direct[0] is like:
                return self.direct[1].run(steps[0], (), leaves)
            plan, numbers = self._plan((), leaves, steps[0])
            if like is not None and not plan.needs_scalars:
                self.direct = like, plan
            return plan.run(steps[0], numbers, leaves)
        parts = [leaves.take(run) for run in runs]
        plans = [self._plan(tuple(run), part, each) for run, part, each in zip(runs, parts, steps)]
        results = list(leaves.params if self.stepping else leaves.grads)
        slots = [list(column) for column in leaves.slots]
        for run, (plan, numbers), part, each in zip(runs, plans, parts, steps):
            out, new = plan.run(each, numbers, part)
            for column, values in zip((results, *slots), (out, *new)):
                for i, value in zip(run, values):
                    column[i] = value
        return results, slots

    def _plan(self, run: tuple[int, ...], leaves: Leaves, steps: Steps) -> tuple[Plan, list[Any]]:
        """The plan for these leaves and steps, and the numbers of the steps."""
        if modes.tracing():
            return Plan(steps, leaves, **self.how), []
        static, numbers = split(steps)
        plan = self.plans.get((run, static))
        if plan is None:
            plan = Plan(steps, leaves, **self.how)
            while len(self.plans) >= KEPT:
                del self.plans[next(iter(self.plans))]
            self.plans[run, static] = plan
        return plan, numbers


def _groups(leaves: Leaves) -> Sequence[list[int] | None]:
    """The places of leaves that share device, layout and dtypes; ``None`` for those of all."""
    groups: dict[Any, list[int]] = {}
    for i, (grad, *rest) in enumerate(zip(leaves.grads, leaves.params, *leaves.slots)):
        kind = (grad.device, grad.layout, *[None if t is None else t.dtype for t in (grad, *rest)])
        groups.setdefault(kind, []).append(i)
    return [None] if len(groups) <= 1 else list(groups.values())
