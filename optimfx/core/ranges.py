"""The ranges of hyperparameters, as annotations that a factory's arguments are checked by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar, get_args, get_type_hints

from optimfx.core.types import Hyper
from optimfx.core.validation import (
    FROM_ONE,
    NON_NEGATIVE,
    NON_POSITIVE,
    POSITIVE,
    REAL,
    UNIT,
    Interval,
    check_hyper,
    check_tuple,
)

OPTAX_WORDS = {
    "learning_rate": "lr",
    "b1": "the first of betas",
    "b2": "the second of betas",
    "b3": "the third of betas",
    "mu_dtype": "state_dtype",
    "accumulator_dtype": "state_dtype",
    "mask": "a combinator: masked or partition",
}
"""Arguments that Optax has under other names, and what they are here."""

P = ParamSpec("P")
T = TypeVar("T")


def _check_parts(parts: dict[str, Interval], **hyper: Any) -> None:
    """Refuse anything but a tuple with these parts, each in its interval."""
    for name, value in hyper.items():
        check_tuple(name, value, *parts)
        for i, (interval, item) in enumerate(zip(parts.values(), value)):
            check_hyper(interval, **{f"{name}[{i}]": item})


Real: TypeAlias = Annotated[Hyper, partial(check_hyper, REAL)]
"""A hyperparameter that may have any value."""
NonNegative: TypeAlias = Annotated[Hyper, partial(check_hyper, NON_NEGATIVE)]
"""A hyperparameter in [0, inf)."""
Positive: TypeAlias = Annotated[Hyper, partial(check_hyper, POSITIVE)]
"""A hyperparameter in (0, inf)."""
NonPositive: TypeAlias = Annotated[Hyper, partial(check_hyper, NON_POSITIVE)]
"""A hyperparameter in (-inf, 0]."""
Decay: TypeAlias = Annotated[Hyper, partial(check_hyper, UNIT)]
"""A hyperparameter in [0, 1)."""
AtLeastOne: TypeAlias = Annotated[Hyper, partial(check_hyper, FROM_ONE)]
"""A hyperparameter in [1, inf)."""
Betas: TypeAlias = Annotated[tuple[Hyper, Hyper], partial(_check_parts, {"beta1": UNIT, "beta2": UNIT})]
"""Two decays, each in [0, 1)."""
ThreeBetas: TypeAlias = Annotated[
    tuple[Hyper, Hyper, Hyper], partial(_check_parts, {"beta1": UNIT, "beta2": UNIT, "beta3": UNIT})
]
"""Three decays, each in [0, 1)."""
Etas: TypeAlias = Annotated[tuple[Hyper, Hyper], partial(_check_parts, {"etaminus": UNIT, "etaplus": FROM_ONE})]
"""A factor in [0, 1) and one in [1, inf)."""
StepSizes: TypeAlias = Annotated[
    tuple[Hyper, Hyper], partial(_check_parts, {"step_size_min": NON_NEGATIVE, "step_size_max": NON_NEGATIVE})
]
"""The least and the greatest size of a step, each in [0, inf)."""


def check_ranges(factory: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a factory by their annotations before it is called.

    Raises:
        TypeError: an argument is not a number, tensor or schedule, or not a tuple of them where one is needed.
        ValueError: a number is outside of its range, or a tensor is not 0-d.
    """
    names = list(inspect.signature(factory).parameters)
    hints = get_type_hints(factory, include_extras=True)
    checks = {name: check for name, hint in hints.items() for check in getattr(hint, "__metadata__", ())}

    @wraps(factory)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name, value in (*zip(names, args), *kwargs.items()):
            if name in checks:
                checks[name](**{name: value})
            elif name in OPTAX_WORDS and name not in names:
                raise TypeError(f"{factory.__name__} has no argument {name!r}: here it is {OPTAX_WORDS[name]}.")
        return factory(*args, **kwargs)

    return checked


def hyper_names(factory: Callable[..., Any]) -> frozenset[str]:
    """Return the arguments of a factory that are annotated as hyperparameters, or as tuples of them."""
    hints = get_type_hints(inspect.unwrap(factory))
    return frozenset(name for name, hint in hints.items() if _mentions_hyper(hint))


def _mentions_hyper(hint: Any) -> bool:
    return hint == Hyper or any(map(_mentions_hyper, get_args(hint)))
