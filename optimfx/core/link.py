"""A rule with its hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from optimfx.core.hyperparams import is_constant, resolve, switch_of
from optimfx.core.rule import Rule
from optimfx.core.transformation import EmptyState, StepState
from optimfx.core.types import Key, Value


@dataclass(frozen=True, eq=False)
class Link:
    """A rule with its hyperparameters: what a step of leaves is made of, alone or one after another.

    Attributes:
        name: what messages and :func:`optimfx.explain` call it.
        rule: the mathematics.
        hyper: the hyperparameters, by name.
        maximize: whether the rule sees the negated gradients.
        state_dtype: the dtype of the slots, or ``None`` for what the rule's ``init`` makes.
        has_step_count: whether the state holds a step count: always beside slots, and where a schedule needs one.
        num_shared_fields: how many fields of the state, from the first, hold what leaves share: the count and the
            carried scalars.
        state_type: the NamedTuple of the state.
        user_names: the arguments of the rule's ``scalars`` that the user gives.
        has_schedule: whether one of the hyperparameters is a function of the step.
        constants: their values, if these are the same at every step.
        varies_by_count: whether the scalars of a step follow from its count alone.
        signature: what a plan depends on, of the rule and its hyperparameters.
    """

    name: str
    rule: Rule
    hyper: dict[str, Value]
    maximize: bool
    state_dtype: torch.dtype | None
    has_step_count: bool = field(init=False, repr=False)
    num_shared_fields: int = field(init=False, repr=False)
    state_type: type[Any] = field(init=False, repr=False)
    user_names: list[str] = field(init=False, repr=False)
    has_schedule: bool = field(init=False, repr=False)
    constants: dict[str, Value] | None = field(init=False, repr=False)
    varies_by_count: bool = field(init=False, repr=False)
    signature: tuple[Key, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        has_schedule = any(callable(h) for h in _flat(self.hyper.values()))
        counts = self.rule.state is not None or has_schedule
        names = [name for name in self.rule.scalar_names if name in self.hyper]
        constant = all(is_constant(self.hyper[name]) for name in names)
        derived = {
            "has_step_count": counts,
            "num_shared_fields": 1 + len(self.rule.carries) if counts else 0,
            "state_type": self.rule.state or (StepState if counts else EmptyState),
            "user_names": names,
            "has_schedule": has_schedule,
            "constants": {name: resolve(self.hyper[name], 0) for name in names} if constant else None,
            "varies_by_count": constant and not self.rule.given,
            "signature": (self.rule, counts, *[switch_of(self.hyper[name]) for name in self.rule.init_names]),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def _flat(values: Iterable[Value]) -> list[Value]:
    return [x for v in values for x in (_flat(v) if isinstance(v, (tuple, list)) else [v])]
