"""One step of a rule: its count and its scalars, for all leaves with the same count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from optimfx.core import tracing
from optimfx.core.hyperparams import as_step_number, resolve, widen
from optimfx.core.link import Link
from optimfx.core.rule import Rule
from optimfx.core.types import Key, Value
from optimfx.execution.memory.dtypes import real


def tensor_like(x: Value, like: Tensor) -> Tensor:
    """Make a 0-d tensor of a scalar, with the dtype and device of another."""
    return x.to(like, copy=True) if isinstance(x, Tensor) else torch.tensor(x, dtype=like.dtype, device=like.device)


NUMBERS = {int, float}
"""Types of the scalars that may differ from step to step; what else is there selects a branch of the rule."""


class Step:
    """One step of a rule, shared by all leaves with the same count.

    Args:
        name: of the algorithm.
        rule: its mathematics.
        count: of updates, with this one: a number, a tensor, or ``None`` without a count.
        hyper: the values of what the scalars depend on.
        maximize: whether the rule sees negated gradients.
        scalars: what the rule makes of these; ``None`` for what is to be computed when it is first asked for.

    Attributes:
        defers: whether the scalars are made of a norm on a device, without a synchronization: then a kernel makes
            them itself, which takes no launches.
    """

    __slots__ = ("_scalars", "count", "defers", "hyper", "maximize", "name", "rule")

    def __init__(
        self, name: str, rule: Rule, count: Value, hyper: dict[str, Value], maximize: bool, scalars: Value = None
    ) -> None:
        self.name = name
        self.rule = rule
        self.count = count
        self.hyper = hyper
        self.maximize = maximize
        self._scalars = scalars
        self.defers = scalars is None and rule.needs_global_norm and isinstance(hyper.get("global_norm"), Tensor)

    @property
    def scalars(self) -> Value:
        """The scalars that the rule makes of the hyperparameters at this step."""
        if self._scalars is None:
            self._scalars = self.rule.scalars(self.count, **self.hyper)
        return self._scalars

    @property
    def arguments(self) -> Value:
        """The arguments of a plan at each step: the scalars, or what they are made of."""
        return (self.count, *self.hyper.values()) if self.defers else self.scalars

    def with_arguments(self, arguments: Value) -> Step:
        """Return the step with other arguments."""
        if not self.defers:
            return self.with_scalars(arguments)
        count, *hyper = arguments
        return Step(self.name, self.rule, count, dict(zip(self.hyper, hyper)), self.maximize)

    def with_scalars(self, scalars: Value, rule: Rule | None = None) -> Step:
        """Return the step with other scalars, and perhaps another rule."""
        return Step(self.name, rule or self.rule, self.count, self.hyper, self.maximize, scalars)


Steps: TypeAlias = tuple[Step, ...]
"""The steps of algorithms that follow one another, each on what the one before it made of the gradient."""


def has_per_leaf_scalars(steps: Steps) -> bool:
    """Whether a scalar is a vector with a number for each leaf."""
    return len(vectors_of(steps)) > 0


def steps_at(steps: Steps, places: int | Sequence[int]) -> Steps:
    """Return the steps of the leaf at one of the places, or of the leaves at several."""
    vectors = vectors_of(steps)
    if not vectors:
        return steps
    index = _index(places, vectors[0].device) if isinstance(places, list) and not tracing.active() else places
    return tuple([step.with_scalars(scalars_at(step.scalars, index)) for step in steps])


def scalars_at(x: Value, index: Value) -> Value:
    """Take from scalars, where they are vectors, the number of one leaf, or those of several."""
    if isinstance(x, tuple):
        parts = [scalars_at(part, index) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if not _is_vector(x):
        return x
    return torch.stack([x[place] for place in index]) if isinstance(index, list) else x[index]


def _index(places: list[int], device: torch.device) -> Tensor:
    """Copy the places to the device, without a synchronization."""
    index = torch.tensor(places, device="cpu")
    return index if device.type == "cpu" else index.pin_memory().to(device, non_blocking=True)


def wants_dtype(steps: Steps) -> bool:
    """Whether a rule asks for the dtype of the parameters."""
    return any([step.rule.needs_param_dtype for step in steps])


def fill_param_dtype(steps: Steps, param: Tensor | None) -> Steps:
    """Tell rules that ask for it the dtype of the parameter, or of its parts if it is complex."""
    if param is None or not wants_dtype(steps):
        return steps
    given = {"param_dtype": real(param).dtype}
    return tuple([s.with_scalars(s.scalars._replace(**given)) if s.rule.needs_param_dtype else s for s in steps])


def _is_vector(x: Value) -> bool:
    return isinstance(x, Tensor) and x.dim() > 0 and x.numel() > 1  # torch accepts a rate of shape (1,)


def flat_scalars(scalars: Value) -> list[Value]:
    """Flatten the scalars of a rule, or of several, and of the rules that they are made of."""
    return [x for part in scalars for x in flat_scalars(part)] if isinstance(scalars, (tuple, list)) else [scalars]


def vectors_of(steps: Steps) -> list[Tensor]:
    """Return the scalars that are vectors, with a number for each leaf."""
    return [x for step in steps for x in flat_scalars(step.scalars) if _is_vector(x)]


def with_numbers(
    steps: Steps, number: Callable[[float], Value], vector: Callable[[Tensor], Value] | None = None
) -> Steps:
    """Replace these scalars in the steps by something made of each number, and of each vector."""

    def replaced(x: Value) -> Value:
        if isinstance(x, (tuple, list)):
            parts = list(map(replaced, x))
            return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
        if vector is not None and _is_vector(x):
            return vector(x)
        return number(x) if type(x) in NUMBERS else x

    return tuple([step.with_scalars(replaced(step.scalars)) for step in steps])


def split(steps: Steps) -> tuple[tuple[Key, ...], list[Value]]:
    """Split steps into what a plan is made for, and the numbers among the arguments, given at each step."""
    key: list[Value] = []
    numbers: list[Value] = []
    for step in steps:
        key += (step.rule, step.maximize, step.defers)
        for x in step.arguments:
            kind = type(x)
            if kind is float or kind is int:
                key.append(float)
                numbers.append(x)
            elif x is None or kind is bool:
                key.append(x)
            else:
                for y in flat_scalars(x):
                    if type(y) in NUMBERS:
                        numbers.append(y)
                    key.append(_static(y))
    return tuple(key), numbers


def _static(x: Value) -> Value:
    if isinstance(x, Tensor):
        return Tensor, x.dtype, x.device, x.shape, x.requires_grad
    return float if type(x) in NUMBERS else x


def step_at(link: Link, step: Value, **given: Value) -> Step:
    """Make the step that takes the count to ``step``: a number, a tensor, or ``None``.

    ``given`` are the scalars that come from the state or the gradients rather than from the user.
    """
    before = None
    if step is not None:
        step = as_step_number(step)
        before = step - 1
    return step_with(link, step, {name: resolve(link.hyper[name], before) for name in link.user_names}, given)


def step_with(link: Link, step: Value, hyper: dict[str, Value], given: dict[str, Value]) -> Step:
    """Make the step with these values of the hyperparameters."""
    if given:
        hyper = {**hyper, **{name: widen(given[name]) for name in link.rule.scalar_names if name in given}}
    return Step(link.name, link.rule, step, hyper, link.maximize)


def probe_step(link: Link) -> Step:
    """Make a first step, with a gradient above every bound: it shows what scalars are made of, not their values."""
    given = dict.fromkeys(link.rule.given, math.inf)
    return step_at(link, 1 if link.has_step_count else None, **initial_carry(link), **given)


def initial_carry(link: Link) -> dict[str, Value]:
    """Return the values with which the scalars that the rule carries begin."""
    rule = link.rule
    return dict(zip(rule.carries, rule.begin(**{name: link.hyper[name] for name in rule.begin_names})))
