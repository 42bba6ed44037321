"""The ranges of hyperparameters, as annotations of a factory's arguments."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeAlias

from optimfx.core.types import Hyper
from optimfx.core.validation import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    NON_POSITIVE,
    POSITIVE,
    REAL,
    UNIT,
    Interval,
    check_hyper,
    check_tuple,
)


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
AtLeastOne: TypeAlias = Annotated[Hyper, partial(check_hyper, AT_LEAST_ONE)]
"""A hyperparameter in [1, inf)."""
Betas: TypeAlias = Annotated[tuple[Hyper, Hyper], partial(_check_parts, {"beta1": UNIT, "beta2": UNIT})]
"""Two decays, each in [0, 1)."""
ThreeBetas: TypeAlias = Annotated[
    tuple[Hyper, Hyper, Hyper], partial(_check_parts, {"beta1": UNIT, "beta2": UNIT, "beta3": UNIT})
]
"""Three decays, each in [0, 1)."""
Etas: TypeAlias = Annotated[tuple[Hyper, Hyper], partial(_check_parts, {"etaminus": UNIT, "etaplus": AT_LEAST_ONE})]
"""A factor in [0, 1) and one in [1, inf)."""
StepSizes: TypeAlias = Annotated[
    tuple[Hyper, Hyper], partial(_check_parts, {"step_size_min": NON_NEGATIVE, "step_size_max": NON_NEGATIVE})
]
"""The least and the greatest size of a step, each in [0, inf)."""
