"""A pure algorithm whose hyperparameters are read from a group of parameters at every step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from optimfx.base import GradientTransformation

Group = dict[str, Any]


class Algorithm(NamedTuple):
    """A pure factory and its arguments, with their annotations as text: which of them are numbers."""

    factory: Callable[..., GradientTransformation]
    arguments: dict[str, str]

    @classmethod
    def of(cls, factory: Callable[..., GradientTransformation]) -> Algorithm:
        """The algorithm of a factory. Asking for a signature costs as much as a small step: do it once."""
        return cls(factory, {name: str(p.annotation) for name, p in inspect.signature(factory).parameters.items()})

    def given(self, group: Group) -> list[str]:
        """The arguments that a group gives."""
        return [name for name in self.arguments if name in group]

    def live(self, group: Group) -> GradientTransformation:
        """The transformation for a group, each number a schedule that looks it up: what the user writes there counts.

        What is not a number (a flag, a choice) is taken as it is now; see :meth:`statics`.
        """
        given: dict[str, Any] = {}
        for name in self.given(group):
            value = group[name]
            if not self.is_numeric(name):
                given[name] = value
            elif name == "lr" and not isinstance(value, Tensor) and not torch.compiler.is_compiling():
                given[name] = LearningRate(group)
            elif isinstance(value, (tuple, list)):
                given[name] = tuple(Reader(group, name, i) for i in range(len(value)))
            else:
                given[name] = Reader(group, name)
        return self.factory(**given)

    def statics(self, group: Group) -> tuple[Any, ...]:
        """What of the group a transformation from :meth:`live` was made with, and does not look up."""
        return tuple(group[name] for name in self.given(group) if not self.is_numeric(name))

    def is_numeric(self, name: str) -> bool:
        """Whether an argument is a number, and so may be a tensor or a schedule too."""
        return "Hyper" in self.arguments[name]


class Reader:
    """A hyperparameter of a group, or an entry of one, as a schedule that looks it up; in messages it is its value."""

    def __init__(self, group: Group, name: str, index: int | None = None) -> None:
        self.group = group
        self.name = name
        self.index = index

    def __call__(self, step: Any) -> Any:
        value = self.group[self.name]
        return value if self.index is None else value[self.index]

    def __repr__(self) -> str:
        return repr(self(0))


class LearningRate(Reader):
    """A group's learning rate as a schedule that compiled graphs ask, too, whenever they run; not made in one.

    Dynamo takes a number that it reads for a constant, and traces anew when that changes. A graph has a call of
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


# The tag keeps compilers from computing it once and for all: it has no inputs, but it is no constant.
@torch.library.custom_op("optimfx::learning_rate", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def _learning_rate(number: int) -> Tensor:
    return torch.tensor(float(LearningRate.known[number].group["lr"]), dtype=torch.float64, device="cpu")


@_learning_rate.register_fake
def _(number: int) -> Tensor:
    return torch.empty((), dtype=torch.float64, device="cpu")
