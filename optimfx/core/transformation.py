"""The type of a transformation: a pair of pure functions over pytrees."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from optimfx.core.reprs import call, name_of, state_class
from optimfx.core.types import Params, PyTree, State, Updates, UpdatesT, Value


class TransformInit(Protocol):
    """Makes the state for these parameters."""

    def __call__(self, params: Params) -> State: ...


class TransformUpdate(Protocol):
    """Turns updates into updates; with ``inplace=True`` the buffers of ``updates`` and ``state`` are reused."""

    def __call__(
        self, updates: UpdatesT, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[UpdatesT, State]: ...


class GradientTransformation(NamedTuple):
    """A pair of pure functions, ``init(params) -> state`` and ``update(updates, state, params) -> (updates, state)``.

    The updates that a complete optimizer returns are *added* to the parameters (:func:`optimfx.apply_updates`). An
    ``update`` of your own that takes ``params=None, *, inplace=False, **extra`` too can be a link of anything.

    >>> import optimfx as fx
    >>> fx.chain(fx.clip_by_global_norm(1.0), fx.sgd(lr=fx.schedules.linear(0.1), momentum=0.9))
    chain(clip_by_global_norm(max_norm=1), sgd(lr=linear(lr=0.1), momentum=0.9))
    """

    init: TransformInit
    update: TransformUpdate

    def __repr__(self) -> str:
        if not isinstance(self.update, Described):
            return name_of(self.update)
        description = self.update.description()
        parts = [f"{label}: {part!r}" if label else repr(part) for label, part in description.parts]
        return call(description.name, description.hyper, parts)


class Description(NamedTuple):
    """The parts of a transformation, for a person to read."""

    name: str
    hyper: dict[str, Value]
    parts: Sequence[tuple[str, GradientTransformation]] = ()  # each with its label, if it has one


class ExecutionRow(NamedTuple):
    """Leaves that run together, and how, for a person to read."""

    transform: str
    executor: str
    leaves: int
    elements: int
    dtype: str
    device: str
    reason: str


class Described:
    """An ``update`` that tells what it is made of."""

    def description(self) -> Description:
        """Return what :func:`optimfx.describe` shows."""
        return Description(type(self).__name__, {})


class StructuredUpdate(Described):
    """An ``update`` that can also step the parameters, check its arguments, and explain and describe itself.

    Subclasses define ``init`` and three methods, and override ``description``:

    ``run(updates, state, params, *, stepping, inplace, spare_updates, **extra) -> (results, state)``
        The update; with ``stepping`` the results are the new parameters, computed without adding an increment where the
        formula allows, else they are updates. With ``spare_updates``, a call in place does not write to the updates.
    ``check(updates, state, params)``
        Raises what ``run`` would raise, so that a combinator can ask every part before one of them writes.
    ``explain(params) -> list[ExecutionRow]``
        What :func:`optimfx.explain` shows.
    """

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, State]:
        return self.run(updates, state, params, stepping=False, inplace=inplace, **extra)

    def init(self, params: Params) -> State:
        raise NotImplementedError

    def run(
        self,
        updates: Updates,
        state: State,
        params: Params | None,
        *,
        stepping: bool,
        inplace: bool,
        spare_updates: bool = False,
        **extra: Any,
    ) -> tuple[PyTree, State]:
        raise NotImplementedError

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        raise NotImplementedError

    def explain(self, params: Params) -> list[ExecutionRow]:
        raise NotImplementedError

    def as_transformation(self) -> GradientTransformation:
        return GradientTransformation(self.init, self)


@state_class
class EmptyState(NamedTuple):
    """The state of a transformation that keeps none."""


@state_class
class StepState(NamedTuple):
    """The state of a link that only counts steps."""

    step: PyTree  # shape=() per leaf: updates taken


def check_transformation(name: str, tx: Any) -> None:
    """Refuse anything but a pair of ``init`` and ``update``.

    Raises:
        TypeError: a factory that was not called, say.
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        factory = f" Call it first, as in {tx.__name__}(...)." if inspect.isfunction(tx) else ""
        raise TypeError(f"{name} must be a GradientTransformation(init, update); got {tx!r:.200}.{factory}")
