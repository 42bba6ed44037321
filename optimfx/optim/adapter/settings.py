"""Binds a pure algorithm to a group of parameters, whose hyperparameters are read at every step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from optimfx.core import GradientTransformation
from optimfx.core.factory import hyper_names
from optimfx.core.hyperparams import PLAIN_VALUES, resolve, switch_of
from optimfx.execution.step import flat_scalars

Group = dict[str, Any]


class Algorithm(NamedTuple):
    """A pure factory, its arguments, and which of them are hyperparameters."""

    factory: Callable[..., GradientTransformation]
    arguments: tuple[str, ...]
    hyper: frozenset[str]

    @classmethod
    def of(cls, factory: Callable[..., GradientTransformation]) -> Algorithm:
        """Look into a factory. Asking for a signature costs as much as a small step: do it once."""
        return cls(factory, tuple(inspect.signature(factory).parameters), hyper_names(factory))

    def present_in(self, group: Group) -> list[str]:
        """Return the arguments that a group gives."""
        return [name for name in self.arguments if name in group]

    def bind(self, group: Group) -> GradientTransformation:
        """Make the transformation for a group, each number a schedule that looks up what the user writes there.

        What is not a number (a flag, a choice) is taken as it is now; see :meth:`statics`.
        """
        given: dict[str, Any] = {}
        for name in self.present_in(group):
            value = group[name]
            if not self.is_numeric(name):
                given[name] = value
            elif name == "lr" and not isinstance(value, Tensor) and not torch.compiler.is_compiling():
                given[name] = LearningRate(group)
            elif isinstance(value, (tuple, list)) and not any(isinstance(item, (tuple, list)) for item in value):
                given[name] = tuple(GroupValue(group, name, i) for i in range(len(value)))
            else:
                given[name] = GroupValue(group, name)
        return self.factory(**given)

    def static_values(self, group: Group) -> tuple[Any, ...]:
        """Return what of the group a transformation from :meth:`live` was made with, and does not look up."""
        return tuple(group[name] for name in self.present_in(group) if not self.is_numeric(name))

    def is_numeric(self, name: str) -> bool:
        """Whether an argument is a number, and so may be a tensor or a schedule too."""
        return name in self.hyper


class Settings:
    """The flags and hyperparameters of a group, read again only when the user has changed them.

    Args:
        algorithm: what steps the group.
        group: the group.

    Raises:
        KeyError: the group lacks a hyperparameter.

    Attributes:
        flags: what the update was made with, and does not look up; another object whenever one of them is another.
        update: the pure update, with these flags.
        hyper: the values of the hyperparameters; ``None`` if they have to be asked for at each step.
        key: equal for groups whose flags and hyperparameters are.
        kept: the names of what is kept for each parameter, once they are known.
        like: the same object for as long as the same hyperparameters are 0.
        differentiable, foreach, fused, on_device: the group's flags; the last, whether torch keeps scalars where the
            parameters are.
        repeats: whether a parameter is in the group more than once.
    """

    hyper: dict[str, Any] | None = None
    likeness: Any = None
    like: Any = None
    kept: list[str] | None = None
    key: Any = None

    def __init__(self, algorithm: Algorithm, names: Sequence[str], group: Group) -> None:
        self.algorithm = algorithm
        self.names = names
        self.group = group
        self.every = [*names, *FLAGS]
        self.values: list[Any] = []
        self.flags: Any = None
        self.take_flags()

    def take_flags(self) -> None:
        """Make the update again if a flag has changed, and raise what it refuses."""
        group = self.group
        for name in self.names:
            group[name]
        flags = self.flags_of(group)
        if flags != self.flags:
            self.flags = flags
            self.update: Any = self.algorithm.bind(group).update
            self.foreach, self.fused, self.differentiable, capturable = map(group.get, FLAGS)
            self.on_device = bool(capturable or self.fused)
            self.repeats = len(set(group["params"])) < len(group["params"])

    def flags_of(self, group: Group) -> tuple[Any, ...]:
        """Return what of a group an update is made with, and does not look up."""
        return (*self.algorithm.static_values(group), *map(group.get, FLAGS))

    def read(self) -> None:
        """Look whether the group says something else; not in a graph, for which numbers would be constants."""
        values = list(map(self.group.get, self.every))
        if self.hyper is not None and values == self.values:
            return
        self.take_flags()
        self.values = values
        update = self.update
        steady = all(type(x) in PLAIN_VALUES for value in values for x in (value if type(value) is tuple else (value,)))
        self.hyper = {name: resolve(update.hyper[name], 0) for name in update.user_names} if steady else None
        self.kept = None
        self.key = (*self.flags, *map(_entry, values)) if steady else id(self)
        likeness = tuple(map(switch_of, self.hyper.values())) if self.hyper is not None else None
        if likeness is None or likeness != self.likeness:
            self.likeness, self.like = likeness, None if likeness is None else object()


def release(settings: dict[int, Settings]) -> None:
    """Let go of the groups of an optimizer that is gone: what Dynamo has traced keeps the settings until collected."""
    for each in settings.values():
        each.group = {}
        for value in flat_scalars(list(each.update.hyper.values())):
            if isinstance(value, GroupValue):
                value.group = {}


FLAGS = ("foreach", "fused", "differentiable", "capturable")


def _entry(value: Any) -> Any:
    return (type(value), value)


class GroupValue:
    """A schedule that looks up a hyperparameter of a group, or an entry of one; it prints as the value."""

    def __init__(self, group: Group, name: str, index: int | None = None) -> None:
        self.group = group
        self.name = name
        self.index = index

    def __call__(self, step: Any) -> Any:
        value = self.group[self.name]
        return value if self.index is None else value[self.index]

    def __repr__(self) -> str:
        return repr(self(0))


class LearningRate(GroupValue):
    """A schedule that reads a group's learning rate at run time, even in compiled graphs; not made in one.

    Dynamo takes a number that it reads for a constant, and retraces when that changes. A graph has a call of
    :func:`_learning_rate` in place of the number.
    """

    known: ClassVar[WeakValueDictionary[int, LearningRate]] = WeakValueDictionary()
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, group: Group) -> None:
        super().__init__(group, "lr")
        self.number = next(self.numbers)
        self.known[self.number] = self

    def __call__(self, step: Any) -> Any:
        return _learning_rate(self.number) if torch.compiler.is_compiling() else super().__call__(step)


# The tag keeps compilers from folding it to a constant, as it has no inputs.
@torch.library.custom_op("optimfx::learning_rate", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _learning_rate(number: int) -> Tensor:
    return torch.tensor(float(LearningRate.known[number].group["lr"]), dtype=torch.float64, device="cpu")


@_learning_rate.register_fake
def _(number: int) -> Tensor:
    return torch.empty((), dtype=torch.float64, device="cpu")
