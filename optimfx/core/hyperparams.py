"""Resolves hyperparameters at a step: evaluates schedules, reads host tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimfx.core.tracing import read_number
from optimfx.core.types import Schedule, Value
from optimfx.core.validation import to_python


def as_step_number(step: Value) -> Any:
    """Convert a number of steps to what schedules and rules compute with: an integer, or a float64 tensor."""
    if type(step) is not float:
        step = read_number(step)
    return widen(step) if isinstance(step, Tensor) else int(step)


def resolve(hyper: Value, step: Value) -> Any:
    """Return a hyperparameter's value for the update that follows ``step`` updates."""
    if type(hyper) in PLAIN_VALUES:
        return hyper
    if isinstance(hyper, (tuple, list)):
        return tuple([resolve(item, step) for item in hyper])
    value = _call_schedule(hyper, step) if callable(hyper) else hyper
    if type(value) in PLAIN_VALUES:
        return value
    # A plan recognizes Python's numbers only, not another library's.
    return read_number(value) if isinstance(value, Tensor) else to_python(value)


def _call_schedule(schedule: Schedule, step: Value) -> Any:
    """Call a schedule; for a vector of steps, return one value for each."""
    if not isinstance(step, Tensor) or step.dim() == 0:
        return schedule(step)
    return torch.vmap(lambda one: torch.as_tensor(schedule(one), dtype=torch.float64, device=one.device))(step)


PLAIN_VALUES = {int, float, bool, str, type(None)}
"""Types of what is its own value at every step."""


def is_constant(hyper: Value) -> bool:
    """Whether a hyperparameter is its own value at every step."""
    return all(map(is_constant, hyper)) if isinstance(hyper, (tuple, list)) else type(hyper) in PLAIN_VALUES


def switch_of(hyper: Value) -> Any:
    """Return what of a hyperparameter decides which terms there are: its value as a flag, or whether it is 0."""
    if isinstance(hyper, (tuple, list)):
        return tuple(map(switch_of, hyper))
    if isinstance(hyper, (int, float)) and not isinstance(hyper, bool):
        return hyper == 0
    return hyper if type(hyper) in PLAIN_VALUES else type(hyper)


def widen(x: Any) -> Any:
    """Widen a scalar to float64, so that a bias correction such as 1 - 0.999**t of tensors keeps its digits."""
    return x.to(torch.float64) if isinstance(x, Tensor) else x
