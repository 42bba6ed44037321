"""The checks of what a user gives."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor


def to_python(x: Any) -> Any:
    """Convert another library's number, 0-d array or fraction to Python's; in a tuple, list or dict, each entry."""
    if type(x) in (tuple, list):
        return type(x)(map(to_python, x))
    if type(x) is dict:
        return {name: to_python(value) for name, value in x.items()}
    if isinstance(x, Tensor) or type(x) in (int, float, bool):
        return x
    if hasattr(x, "__array__") and getattr(x, "ndim", None) == 0:
        return x.item()
    return float(x) if isinstance(x, numbers.Real) else x


class Interval(NamedTuple):
    """The values that a hyperparameter may take, between two numbers of which either may belong to them."""

    low: float
    high: float
    has_low: bool = True
    has_high: bool = False

    def __contains__(self, x: Any) -> bool:
        return bool(self.low < x < self.high or (self.has_low and x == self.low) or (self.has_high and x == self.high))

    def __str__(self) -> str:
        return f"{'[' if self.has_low else '('}{self.low:g}, {self.high:g}{']' if self.has_high else ')'}"


NON_NEGATIVE = Interval(0, math.inf)
NON_POSITIVE = Interval(-math.inf, 0, has_high=True)
POSITIVE = Interval(0, math.inf, has_low=False)
UNIT = Interval(0, 1)
AT_LEAST_ONE = Interval(1, math.inf)
REAL = Interval(-math.inf, math.inf)


def check_hyper(interval: Interval, **hyper: Any) -> None:
    """Refuse hyperparameters that are not scalars in the interval; tensors and schedules are not checked.

    Raises:
        TypeError: not a number, tensor or schedule (nor a tuple of them).
        ValueError: a number outside the interval, or a tensor that is not 0-d.
    """
    for name, value in to_python(hyper).items():
        if isinstance(value, (tuple, list)):
            check_hyper(interval, **{f"{name}[{i}]": item for i, item in enumerate(value)})
        elif isinstance(value, Tensor):
            if value.dim() != 0:
                raise ValueError(
                    f"{name} is a tensor of shape {tuple(value.shape)}; a tensor hyperparameter must be 0-d. For one "
                    f"value per model, map over it with torch.vmap."
                )
        elif isinstance(value, bool) or not (callable(value) or isinstance(value, (int, float))):
            params = (
                " Parameters go to init; fx.optim has the classes that take them." if hasattr(value, "__next__") else ""
            )
            raise TypeError(
                f"{name} must be a number, a 0-d tensor or a schedule (step -> value); got {value!r}.{params}"
            )
        elif not callable(value) and value not in interval:
            raise ValueError(f"{name} must be in {interval}; got {value!r}.")


def check_count(interval: Interval, **counts: Any) -> None:
    """Refuse anything but integers in the interval."""
    for name, value in to_python(counts).items():
        if isinstance(value, bool) or not isinstance(value, int) or value not in interval:
            raise ValueError(f"{name} must be an integer in {interval}; got {value!r}.")


def check_state_dtype(state_dtype: Any) -> None:
    """Refuse anything but a floating-point dtype or ``None``."""
    if state_dtype is not None and not (isinstance(state_dtype, torch.dtype) and state_dtype.is_floating_point):
        raise TypeError(f"state_dtype must be a floating-point torch.dtype or None; got {state_dtype!r}.")


def check_tuple(name: str, value: Any, *parts: str) -> None:
    """Refuse anything but a tuple with these parts."""
    if not isinstance(value, (tuple, list)) or len(value) != len(parts):
        raise TypeError(f"{name} must be ({', '.join(parts)}); got {value!r}.")
