"""Schedules that know the call that made them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from optimfx.core import Scalar, Schedule, to_python
from optimfx.core.reprs import call


class ClosedForm:
    """A schedule, with the call that made it: that is what is shown and pickled of it.

    Its function meets Python numbers and float64 tensors only: an int64 count would lose digits.
    """

    def __init__(self, function: Schedule, factory: Callable[..., Schedule], args: Any, kwargs: Any) -> None:
        self.function = function
        self.made_by = factory, args, kwargs
        self.__qualname__ = factory.__qualname__

    def __call__(self, step: Scalar) -> Scalar:
        return self.function(step.to(torch.float64) if isinstance(step, Tensor) else to_python(step))

    def __repr__(self) -> str:
        factory, args, kwargs = self.made_by
        return call(factory.__name__, inspect.signature(factory).bind(*args, **kwargs).arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        factory, args, kwargs = self.made_by
        return functools.partial(factory, **kwargs), args


def _to_python(x: Any) -> Any:
    """Return an argument, with Python's numbers for those of an array."""
    is_array = hasattr(x, "__array__") and not isinstance(x, Tensor)
    return x.tolist() if is_array else to_python(x)


Factory = TypeVar("Factory", bound=Callable[..., Schedule])


def closed_form(factory: Factory) -> Factory:
    """Make a factory of schedules from a factory of plain functions."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Schedule:
        args, kwargs = tuple(map(_to_python, args)), {name: _to_python(x) for name, x in kwargs.items()}
        return ClosedForm(factory(*args, **kwargs), make, args, kwargs)

    return cast(Factory, make)
