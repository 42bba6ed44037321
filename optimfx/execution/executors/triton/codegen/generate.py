"""Generates and caches the kernel of rules, or the reason why they have none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from optimfx.core.rule import Rule
from optimfx.core.types import Key, Value
from optimfx.execution.executors.triton.codegen.layout import Layout
from optimfx.execution.executors.triton.codegen.recording import LoweringError, Recording, record, record_totals
from optimfx.execution.executors.triton.codegen.template import module
from optimfx.execution.executors.triton.runtime import build
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory.dtypes import compute_dtype_of
from optimfx.execution.program.tape import Tape
from optimfx.execution.step import NUMBERS, Steps, flat_scalars


@cache
def norm_source(dtype: torch.dtype) -> str:
    """Write the source of the kernels that measure one norm of tensors of this dtype."""
    tape = Tape()
    grad = tape.value()
    torch.linalg.vector_norm(grad)
    recording = Recording(tape.calls, [None, grad], [], [], [])
    layout = Layout((None, dtype), compute_dtype_of([dtype]), stepping=False, inplace=True)
    return module(["norm"], recording, layout, build.INTERPRETED, stores=False)


def totals_source(
    name: str, rule: Rule, hyper: Sequence[Value], dtypes: tuple[torch.dtype | None, ...]
) -> tuple[str, str | None]:
    """Write the source of the kernels that add up what a rule measures, or say why there are none."""
    form = tuple(None if type(x) in NUMBERS else x for x in flat_scalars(hyper))
    key = (rule, form, dtypes)
    if key not in _sources:
        layout = Layout(dtypes, compute_dtype_of([d for d in dtypes if d is not None]), stepping=True, inplace=True)
        try:
            recording = record_totals(rule, [dtype is not None for dtype in dtypes], hyper)
            _sources[key] = module([name], recording, layout, build.INTERPRETED, stores=False), None
        except LoweringError as reason:
            _sources[key] = "", str(reason)
    return _sources[key]


_sources: dict[Key, tuple[str, str | None]] = {}


def source(
    steps: Steps,
    forms: Sequence[tuple[Any, ...]],
    on_host: Sequence[bool],
    leaves: Leaves,
    stepping: bool,
    inplace: bool,
) -> tuple[str, str | None]:
    """Write the source of the kernel for these rules and dtypes, or say why there is none.

    ``on_host`` says of each scalar that is left open whether it is a number on the host, and not a tensor.
    """
    # ``explain`` passes no slots; assume that they have the gradients' dtypes.
    slots = leaves.slots or [leaves.grads for step in steps for _ in step.rule.slots]
    columns = [leaves.params, leaves.grads, *slots]
    dtypes = tuple([None if column[0] is None else column[0].dtype.to_real() for column in columns])
    rules = tuple([(step.rule, step.maximize, step.defers, form) for step, form in zip(steps, forms)])
    key = (rules, tuple(on_host), dtypes, stepping, inplace)
    if key not in _sources:
        compute = compute_dtype_of([dtype for dtype in dtypes if dtype is not None])
        try:
            recording = record(steps, forms, on_host, [dtype is not None for dtype in dtypes], stepping)
            layout = Layout(dtypes, compute, stepping, inplace)
            names = [step.name for step in steps]
            _sources[key] = module(names, recording, layout, build.INTERPRETED), None
        except LoweringError as reason:
            _sources[key] = "", str(reason)
    return _sources[key]
