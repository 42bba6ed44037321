"""Records what rules do to one element, by running them once on stand-ins for tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from optimfx.core.rule import Rule
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.program.specialize import Dynamic, bind_values
from optimfx.execution.program.tape import Call, Tape, Value
from optimfx.execution.step import NUMBERS, Step, Steps

NORM, SUM = torch.linalg.vector_norm, torch.sum
MEASURES = (NORM, SUM)
"""The functions that are measured before the kernel that stores runs."""


class LoweringError(Exception):
    """A rule uses an op that has no Triton lowering."""


class Recording(NamedTuple):
    """The calls of a rule on one element, and the measures of whole leaves that it needs."""

    calls: Sequence[Call]
    columns: Sequence[Value | None]  # param, grad, slots
    scalars: Sequence[Value]  # the dynamic scalars
    on_host: Sequence[bool]  # which of these are numbers on the host
    results: Sequence[Value | None]  # the result and the new slots

    @property
    def numbers(self) -> int:
        """How many scalars are numbers on the host."""
        return sum(self.on_host)

    @property
    def tensors(self) -> int:
        """How many scalars are tensors."""
        return len(self.on_host) - self.numbers

    @property
    def measures(self) -> list[list[Call]]:
        """The norms or sums by stage; those of one stage are independent of each other."""
        stages: list[list[Call]] = []
        stage_of: dict[int, int] = {}
        for call in self.calls:
            stage = max([stage_of.get(x.index, 0) for x in values_in(call)], default=0)
            if call.function in MEASURES:
                stages += [[]] if stage == len(stages) else []
                stages[stage].append(call)
                stage += 1
            stage_of[call.result] = stage
        return stages

    def calls_for(self, targets: Iterable[Value]) -> list[Call]:
        """Return what has to be computed for these values, without what is measured before."""
        wanted = {value.index for value in targets}
        calls = []
        for call in reversed(self.calls):
            if call.result in wanted and call.function not in MEASURES:
                calls.append(call)
                wanted |= {x.index for x in values_in(call)}
        return calls[::-1]


def record(
    steps: Steps, forms: Sequence[tuple[Any, ...]], on_host: Sequence[bool], kept: Sequence[bool], stepping: bool
) -> Recording:
    """Record the rules as they act on columns, of which some are not kept.

    Raises:
        LoweringError: a rule asks of a tensor what cannot be known before it is there.
    """
    tape = Tape()
    columns = [tape.value() if there else None for there in kept]
    scalars = [tape.value() for form in forms for part in form if isinstance(part, Dynamic)]
    numbers = iter(scalars)
    param, grad, *slots = columns
    try:
        whole: list[Step] = [bind_values(step, form, numbers) for step, form in zip(steps, forms)]
        results = apply_rules(tuple(whole), param, grad, slots, stepping)
    except Exception as error:  # a rule may be any Python; eager will raise its errors
        raise LoweringError(f"the rule does not run on a stand-in for a tensor: {error}") from error
    if not all(value is None or isinstance(value, Value) for value in results):
        raise LoweringError("the rule's result does not depend on its arguments")
    return Recording(tape.calls, columns, scalars, on_host, results)


def record_totals(rule: Rule, kept: Sequence[bool], hyper: Sequence[Value]) -> Recording:
    """Record what a rule adds up over columns, of which some are not kept; its results are the sums.

    Raises:
        LoweringError: it adds up something else than what it makes of elements.
    """
    tape = Tape()
    columns = [tape.value() if there else None for there in kept]
    scalars: list[Value] = []

    def given(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(given, x))
        if type(x) not in NUMBERS:
            return x
        scalars.append(tape.value())
        return scalars[-1]

    try:
        measured: Sequence[Any] = rule.measure(*columns, *map(given, hyper))
    except Exception as error:  # a rule may be any Python; eager will raise its errors
        raise LoweringError(f"the rule does not run on a stand-in for a tensor: {error}") from error
    found = Recording(tape.calls, columns, scalars, [True] * len(scalars), measured)
    sums = [call.result for stage in found.measures for call in stage if call.function is SUM]
    if len(found.measures) != 1 or sums != [getattr(value, "index", None) for value in measured]:
        raise LoweringError("a kernel measures sums of what is made of elements, in their order")
    return found


def operand(measure: Call) -> Value:
    """Return what is measured.

    Raises:
        LoweringError: it is measured otherwise than by the 2-norm of a whole leaf, or by its sum.
    """
    x, *order = measure.args
    if not isinstance(x, Value) or order not in ([], [2]) or measure.kwargs:
        raise LoweringError("unsupported norm: a kernel measures only the 2-norm of a whole leaf")
    return x


def values_in(call: Call) -> list[Value]:
    """Return the arguments that are not there before the kernel runs."""
    return [x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Value)]
