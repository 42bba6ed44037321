"""A pure algorithm whose hyperparameters are read from a group of parameters at every step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from optimfx.base import GradientTransformation

Group = dict[str, Any]


def live(factory: Callable[..., GradientTransformation], group: Group) -> GradientTransformation:
    """The transformation for a group, each number a schedule that looks it up: what the user writes there counts.

    Args:
        factory: the pure algorithm; its arguments are the keys of the group.
        group: what is not a number (a flag, a choice) is taken as it is now; see :func:`statics`.
    """
    given: dict[str, Any] = {}
    for name in arguments(factory, group):
        value = group[name]
        if not _is_numeric(factory, name):
            given[name] = value
        elif isinstance(value, (tuple, list)):
            given[name] = tuple(_reader(group, name, i) for i in range(len(value)))
        else:
            given[name] = _reader(group, name)
    return factory(**given)


def statics(factory: Callable[..., GradientTransformation], group: Group) -> tuple[Any, ...]:
    """What of the group a transformation from :func:`live` was made with, and does not look up."""
    return tuple(group[name] for name in arguments(factory, group) if not _is_numeric(factory, name))


def _reader(group: Group, name: str, index: int | None = None) -> Callable[[Any], Any]:
    return (lambda step: group[name]) if index is None else (lambda step: group[name][index])


def arguments(factory: Callable[..., GradientTransformation], group: Group) -> list[str]:
    """The arguments of the algorithm that the group gives."""
    return [name for name in _annotations(factory) if name in group]


def _is_numeric(factory: Callable[..., GradientTransformation], name: str) -> bool:
    return "Hyper" in _annotations(factory)[name]


@cache
def _annotations(factory: Callable[..., GradientTransformation]) -> dict[str, str]:
    """The arguments of a factory and their annotations. Asking costs as much as a small step."""
    return {name: str(parameter.annotation) for name, parameter in inspect.signature(factory).parameters.items()}
