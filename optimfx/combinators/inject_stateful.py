"""Hyperparameters that schedules with a state of their own compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec

from torch import Tensor

from optimfx.combinators.inject import as_tensor, check_names, split_arguments
from optimfx.core import (
    Description,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    state_class,
)
from optimfx.core.hyperparams import as_step_number
from optimfx.execution import check, check_state, count_from_zero, explain, run

Arguments = ParamSpec("Arguments")


@state_class
class InjectStatefulHyperparamsState(NamedTuple):
    """The state of a transformation with stateful schedules."""

    step: Tensor  # shape=(): updates taken
    hyperparams: dict[str, Any]  # 0-d tensors (or tuples of them) by name: the values of the last update, or to come
    hyperparams_states: dict[str, Any]  # states of the stateful schedules by name
    inner_state: State


@dataclass(frozen=True, eq=False)
class InjectStateful(StructuredUpdate):
    """The ``update`` of a transformation whose schedules have states."""

    factory: Callable[..., GradientTransformation]
    fixed: dict[str, Any]
    injected: dict[str, Any]

    def init(self, params: Params) -> InjectStatefulHyperparamsState:
        values, states = self._first()
        inner_state = self._inner(values).init(params)
        return InjectStatefulHyperparamsState(count_from_zero(params), values, states, inner_state)

    def _first(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the schedules; return the first values and the states."""
        states = {name: value.init() for name, value in self.injected.items() if _is_stateful(value)}
        return {name: self._value(name, states, 0) for name in self.injected}, states

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
    ) -> tuple[PyTree, InjectStatefulHyperparamsState]:
        self._check_state(state)
        step, states = as_step_number(state.step), state.hyperparams_states
        values = {
            name: self._value(name, states, step, **extra) if callable(value) else state.hyperparams[name]
            for name, value in self.injected.items()
        }
        how = {"stepping": stepping, "inplace": inplace, "spare_updates": spare_updates, **extra}
        results, inner_state = run(self._inner(values), updates, state.inner_state, params, **how)
        states = {name: self.injected[name].update(before, **extra) for name, before in states.items()}
        return results, InjectStatefulHyperparamsState(state.step + 1, values, states, inner_state)

    def _value(self, name: str, states: dict[str, Any], step: Any, **extra: Any) -> Any:
        value = self.injected[name]
        if name in states:
            return as_tensor(value(states[name], **extra))
        return as_tensor(value(step) if callable(value) else value)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        self._check_state(state)
        check(self._inner(state.hyperparams), updates, state.inner_state, params)

    def _check_state(self, state: State) -> None:
        check_state("inject_stateful_hyperparams", InjectStatefulHyperparamsState, state)
        check_names(state.hyperparams, self.injected)

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self._inner(self._first()[0]), params)

    def description(self) -> Description:
        return Description("inject_stateful_hyperparams", {}, [("", self._inner(self._first()[0]))])

    def _inner(self, values: dict[str, Any]) -> GradientTransformation:
        return self.factory(**self.fixed, **values)


def inject_stateful_hyperparams(
    factory: Callable[Arguments, GradientTransformation], static_args: Iterable[str] = ()
) -> Callable[Arguments, GradientTransformation]:
    """Keep a factory's hyperparameters in the state, and let schedules with a state of their own compute them.

    As :func:`~optimfx.inject_hyperparams`, but an argument may also be a stateful schedule
    (:class:`optimfx.typing.StatefulSchedule`): an object with ``init() -> state``, ``update(state, **extra) -> state``,
    and, called with ``(state, **extra)``, a value. It gets the further arguments of ``update``, such as ``value=loss``.

    Args:
        factory: anything that makes a transformation, such as :func:`~optimfx.adamw`.
        static_args: names of arguments to leave as they are.

    Returns:
        A factory with the same arguments. Its transformation has state :class:`InjectStatefulHyperparamsState`:
        ``step`` (0-d), ``hyperparams``, ``hyperparams_states`` and ``inner_state``.

    Raises:
        TypeError: ``factory`` cannot be called.
        ValueError: ``static_args`` names no argument of the factory; at ``update``, ``hyperparams`` has other names.

    Optax's ``inject_hyperparams`` does both. Here it is apart, since a step of the other is planned once, before the
    further arguments are known.

    >>> import torch, optimfx as fx
    >>> class OfTheLoss:
    ...     def init(self):
    ...         return torch.tensor(float("inf"))
    ...     def update(self, least, *, value, **extra):
    ...         return torch.minimum(least, value)
    ...     def __call__(self, least, *, value=torch.tensor(0.0), **extra):
    ...         return torch.where(value < least, 0.1, 0.01)
    >>> tx, params = fx.inject_stateful_hyperparams(fx.sgd)(lr=OfTheLoss()), {"w": torch.ones(1)}
    >>> state = tx.init(params)
    >>> for loss in (3.0, 4.0):
    ...     params, state = fx.step(tx, {"w": torch.ones(1)}, state, params, value=torch.tensor(loss))
    ...     print(state.hyperparams["lr"], params["w"])
    tensor(0.1000) tensor([0.9000])
    tensor(0.0100) tensor([0.8900])
    """
    split = split_arguments("inject_stateful_hyperparams", factory, static_args)

    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> GradientTransformation:
        return InjectStateful(factory, *split(args, kwargs)).as_transformation()

    return make


def _is_stateful(value: Any) -> bool:
    return callable(value) and hasattr(value, "init") and hasattr(value, "update")
