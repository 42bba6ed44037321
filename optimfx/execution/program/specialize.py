"""Splits a step's arguments into static ones, compiled into a kernel, and dynamic ones, passed at each call."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from optimfx.core.types import Value
from optimfx.execution.step import Step, flat_scalars


class Dynamic(Enum):
    """A placeholder for a dynamic scalar; all others are compiled in."""

    NUMBER = 0
    CONDITION = 1


def static_form(step: Step) -> tuple[Any, ...]:
    """Return the arguments, one after the other, with those that may change from step to step left open."""
    scalars = flat_scalars(step.arguments)
    flags = [isinstance(x, bool) for x in scalars]
    numbers = [isinstance(x, (int, float, Tensor)) and not flag for x, flag in zip(scalars, flags)]
    conditions = [isinstance(x, Tensor) and x.dtype is torch.bool for x in scalars]
    if any(flags) and not step.defers and step.count is not None and not isinstance(step.count, Tensor):
        # A flag may depend on the step. With a tensor as step, flags that become tensors are dynamic.
        probe = flat_scalars(
            step.rule.scalars(torch.tensor(step.count, dtype=torch.float64, device="cpu"), **step.hyper)
        )
        hanging = [flag and isinstance(x, Tensor) for flag, x in zip(flags, probe)]
        conditions[: len(hanging)] = [known or hangs for known, hangs in zip(conditions, hanging)]
    form = [Dynamic.NUMBER if number else x for x, number in zip(scalars, numbers)]
    return tuple([Dynamic.CONDITION if condition else x for x, condition in zip(form, conditions)])


def dynamic_values(step: Step, form: tuple[Any, ...]) -> list[Value]:
    """Return the values of the arguments that are left open."""
    return [x for x, part in zip(flat_scalars(step.arguments), form) if isinstance(part, Dynamic)]


def bind_values(step: Step, form: tuple[Any, ...], numbers: Iterator[Value]) -> Step:
    """Fill the arguments that are left open with the numbers."""
    values = [next(numbers) if isinstance(part, Dynamic) else part for part in form]
    arguments = [x != 0 if part is Dynamic.CONDITION else x for x, part in zip(values, form)]
    return step.with_arguments(_nest(step.arguments, iter(arguments)))


def _nest(like: Any, scalars: Iterator[Any]) -> Any:
    """Nest the scalars as those of ``like`` are."""
    parts = [_nest(x, scalars) if isinstance(x, (tuple, list)) else next(scalars) for x in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
