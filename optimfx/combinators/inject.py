"""Hyperparameters that live in the state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor

from optimfx import ops
from optimfx.core import (
    Description,
    GradientTransformation,
    Params,
    PyTree,
    State,
    state_class,
    to_python,
)
from optimfx.core.hyperparams import as_step_number
from optimfx.core.lowering import Lowered, join
from optimfx.execution import Lowering, check_state, count_from_zero, lower

Arguments = ParamSpec("Arguments")


@state_class
class InjectHyperparamsState(NamedTuple):
    """The state of a transformation whose hyperparameters can be read and replaced."""

    step: Tensor  # shape=(): updates taken
    hyperparams: dict[str, Any]  # 0-d tensors (or tuples of them) by name: the values of the last update, or to come
    inner_state: State


@dataclass(frozen=True, eq=False)
class Inject(Lowering):
    """The ``update`` of an injected transformation: builds the inner one from the state's values."""

    factory: Callable[..., GradientTransformation]
    fixed: dict[str, Any]
    injected: dict[str, Any]

    def init(self, params: Params) -> InjectHyperparamsState:
        values = {name: as_tensor(value(0) if callable(value) else value) for name, value in self.injected.items()}
        return InjectHyperparamsState(count_from_zero(params), values, self._inner(values).init(params))

    def lower(self, reference: PyTree, state: State | None) -> Lowered:
        if state is None:
            return lower(self._inner(self.injected), reference, None)
        values = self._values(state)
        inner = lower(self._inner(values), reference, state.inner_state)
        return join([inner], lambda states: InjectHyperparamsState(state.step + 1, values, *states))

    def description(self) -> Description:
        return Description("inject_hyperparams", {}, [("", self._inner(self.injected))])

    def _values(self, state: State) -> dict[str, Any]:
        check_state("inject_hyperparams", InjectHyperparamsState, state)
        check_names(state.hyperparams, self.injected)
        return {
            name: as_tensor(value(as_step_number(state.step))) if callable(value) else state.hyperparams[name]
            for name, value in self.injected.items()
        }

    def _inner(self, values: dict[str, Any]) -> GradientTransformation:
        return self.factory(**self.fixed, **values)


def inject_hyperparams(
    factory: Callable[Arguments, GradientTransformation], static_args: Iterable[str] = ()
) -> Callable[Arguments, GradientTransformation]:
    """Keep a factory's hyperparameters in the state, where they can be read, replaced and mapped over.

    Args:
        factory: anything that makes a transformation, such as :func:`~optimfx.adamw`.
        static_args: names of arguments to leave as they are, such as a function that is not a schedule. Flags, strings,
            ``None``, transformations and arguments annotated ``int`` always are, and so is a term that is switched off:
            the number 0 for an argument whose default is 0 (no momentum, no decay). Give a tensor to switch such a term
            on later.

    Returns:
        A factory with the same arguments. Its transformation has state :class:`InjectHyperparamsState`, whose
        ``hyperparams`` maps each numeric argument, defaults included, to a float64 0-d tensor (float64 holds a Python
        number exactly, so injection changes no result). A value that you put there is used by the next update; where
        the argument was a schedule, each update overwrites it.

    Raises:
        TypeError: ``factory`` cannot be called.
        ValueError: ``static_args`` names no argument of the factory; at ``update``, ``hyperparams`` has other names.

    >>> import torch, optimfx as fx
    >>> tx = fx.inject_hyperparams(fx.sgd)(lr=0.1)
    >>> params = {"w": torch.ones(1)}
    >>> state = tx.init(params)
    >>> state.hyperparams["lr"]
    tensor(0.1000, dtype=torch.float64)
    >>> state.hyperparams["lr"] = torch.tensor(0.5)
    >>> fx.step(tx, params, state, params)[0]
    {'w': tensor([0.5000])}
    """
    split = split_arguments("inject_hyperparams", factory, static_args)

    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> GradientTransformation:
        return Inject(factory, *split(args, kwargs)).as_transformation()

    return make


def split_arguments(
    name: str, factory: Callable[..., GradientTransformation], static_args: Iterable[str]
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]:
    """Return a function of a factory's arguments that checks them and splits them: the fixed ones, and hyperparameters.

    Raises:
        TypeError: ``factory`` cannot be called.
        ValueError: ``static_args`` names no argument of the factory.
    """
    if not callable(factory):
        raise TypeError(f"{name} takes a factory and gives one, as in {name}(fx.adam)(lr=0.1); got {factory!r:.200}.")
    signature = inspect.signature(factory)
    static = set(static_args)
    unknown = static - set(signature.parameters)
    counts = {arg for arg, parameter in signature.parameters.items() if parameter.annotation in (int, "int")}
    if unknown:
        raise ValueError(f"static_args names {sorted(unknown)}, but the arguments are {list(signature.parameters)}.")

    def default(arg: str) -> Any:
        return signature.parameters[arg].default if arg in signature.parameters else None

    def split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        factory(*args, **kwargs)  # refuse a bad value now, not at the first update
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = to_python(dict(zip(signature.parameters, bound.args)) | bound.kwargs)
        off = {arg for arg, value in arguments.items() if ops.is_zero(value) and ops.is_zero(default(arg))}
        injected = {k: v for k, v in arguments.items() if k not in static | off | counts and _is_hyper(v)}
        return {k: v for k, v in arguments.items() if k not in injected}, injected

    return split


def check_names(hyperparams: dict[str, Any], injected: dict[str, Any]) -> None:
    """Refuse hyperparameters of a state that were not injected."""
    unknown = [name for name in hyperparams if name not in injected]
    if unknown:
        raise ValueError(
            f"state.hyperparams has {unknown}, but {list(injected)} were injected. A hyperparameter that was 0 when "
            f"the transformation was made is not: give the factory a tensor to change it later."
        )


def _is_hyper(value: Any) -> bool:
    if isinstance(value, GradientTransformation):
        return False
    if isinstance(value, (tuple, list)):
        return all(_is_hyper(item) for item in value)
    return not isinstance(value, bool) and (callable(value) or isinstance(value, (int, float, Tensor)))


def as_tensor(value: Any) -> Any:
    """Make a float64 tensor of a number, also within tuples; leave a tensor as it is."""
    if isinstance(value, (tuple, list)):
        return tuple(as_tensor(item) for item in value)
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64, device="cpu")
