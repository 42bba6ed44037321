"""What line searches share: the line through the parameters along the updates, and the function on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from optimfx.combinators.select import choose
from optimfx.core import Params, PyTree, State, Updates, objective, tracing, tree
from optimfx.execution.memory.dtypes import real
from optimfx.surgery import tree_get

Gradient: TypeAlias = tuple[Tensor, ...]
"""A gradient, as the leaves that are there."""


class Trial(NamedTuple):
    """A point on the line."""

    lr: Tensor  # shape=(): how far along the updates
    value: Tensor  # shape=(): of the function
    slope: Tensor  # shape=(): derivative along the line
    grad: Gradient


@dataclass(frozen=True)
class Line:
    """The parameters plus any multiple of the updates."""

    function: Callable[[Sequence[Tensor]], Tensor]
    params: list[Tensor]
    updates: list[Tensor]
    start: Trial

    def value_at(self, lr: Tensor) -> Tensor:
        return as_scalar(self.function(self._point(lr)))

    def trial_at(self, lr: Tensor) -> Trial:
        grads, value = torch.func.grad_and_value(self.function)(self._point(lr))
        return Trial(lr, as_scalar(value), as_scalar(tree.dot_of_leaves(grads, self.updates)), tuple(grads))

    def _point(self, lr: Tensor) -> list[Tensor]:
        return [p + lr.to(p.dtype) * u for p, u in zip(self.params, self.updates)]


def line_of(
    name: str, updates: Updates, params: Params | None, given: dict[str, Any], **arguments: Any
) -> tuple[Line, list[int]]:
    """Return the line, and which of the leaves are on it: those that have an update.

    Args:
        name: of the search, for messages.
        updates: the direction.
        params: where the line begins.
        given: ``value``, ``grad`` and ``value_fn``.
        arguments: the others of the function.
    """
    missing = [word for word, x in {"params": params, **given}.items() if x is None]
    if missing:
        raise ValueError(
            f"{name} needs {', '.join(missing)}: call update(updates, state, params, value=value, grad=grad, "
            f"value_fn=f) with value = f(params) and its gradient."
        )
    column, spec = tree.flatten(params)
    directions = tree.flatten_as(spec, updates, "updates", "params")
    slopes = tree.flatten_as(spec, given["grad"], "grad", "params")
    places = [i for i, u in enumerate(directions) if u is not None and column[i] is not None]
    for i in places:
        for leaf, other in ((directions[i], "updates"), (slopes[i], "grad")):
            tree.check_leaf(leaf, spec, i, other)
            tree.check_counterpart(column[i], leaf, spec, i, ("params", other))
    value_fn = _with_arguments(given["value_fn"], arguments)

    def function(tensors: Sequence[Tensor]) -> Tensor:
        whole = list(column)
        for place, tensor in zip(places, tensors):
            whole[place] = tensor
        value = value_fn(tree.unflatten(spec, whole))
        if not isinstance(value, Tensor) or value.dim():
            got = f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise TypeError(f"{name}: value_fn must return a 0-d tensor; got {got:.200}.")
        return value

    params, updates, grad = ([each[i] for i in places] for each in (column, directions, slopes))
    value = as_scalar(torch.as_tensor(given["value"]))
    slope = as_scalar(tree.dot_of_leaves(grad, updates))
    return Line(function, params, updates, Trial(torch.zeros_like(value), value, slope, tuple(grad))), places


def as_scalar(x: Tensor) -> Tensor:
    """Make a number of the search: a float64 on the host where it can be read, so that its steps wait for no device."""
    if tracing.active() or tracing.requires_autograd(x):
        return x.to(torch.promote_types(x.dtype, torch.float32))
    return x.to("cpu", torch.float64)


def first_scalar(params: Params, x: float) -> Tensor:
    """Make a number of a new state, in the real dtype of the parameters, and at least in float32."""
    like = next((p for p in tree.flatten(params)[0] if p is not None), torch.zeros(()))
    dtype = torch.promote_types(real(like).dtype, torch.float32)
    return torch.full((), x, dtype=dtype, device=like.device)


def scaled(updates: Updates, lr: Tensor, places: Sequence[int]) -> Updates:
    """Multiply the updates at these places."""
    column, spec = tree.flatten(updates)
    for i in places:
        column[i] = lr.to(column[i].device, column[i].dtype) * column[i]
    return tree.unflatten(spec, column)


def with_leaves(old: PyTree, new: Sequence[Tensor], places: Sequence[int]) -> PyTree:
    """Replace leaves of a tree."""
    column, spec = tree.flatten(old)
    for i, leaf in zip(places, new):
        column[i] = leaf
    return tree.unflatten(spec, column)


def _with_arguments(value_fn: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[Params], Any]:
    """Give the function those of the further arguments of ``update`` that it names."""
    if not arguments:
        return value_fn
    named = {name: x for name, x in arguments.items() if name in inspect.signature(value_fn).parameters}
    return lambda params: value_fn(params, **named)


def value_and_grad_from_state(value_fn: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Updates]]:
    r"""Evaluate a function and its gradient, or take them from the state of the line search that ended there.

    Args:
        value_fn: a function of the parameters, and of what else you give, that returns a 0-d tensor.

    Returns:
        A function ``(params, *args, state, **kwargs) -> (value, grad)``. It takes ``value`` and ``grad`` from ``state``
        where that value is finite, and evaluates ``value_fn`` where it is not, as before the first step.

    Raises:
        ValueError: at the call, ``state`` has no ``value`` or ``grad``.
        KeyError: at the call, it has several.

    As Optax's. Right for a function that is the same at each step: not for one of mini-batches. Under
    ``torch.compile`` and ``torch.func`` transforms the function is evaluated in any case.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(1.0), fx.scale_by_backtracking_linesearch(15, store_grad=True))
    >>> def f(params):
    ...     return (params["w"] ** 2).sum()
    >>> params = {"w": torch.tensor([1.0, 2.0, 3.0])}
    >>> state, value_and_grad = tx.init(params), fx.value_and_grad_from_state(f)
    >>> for _ in range(3):
    ...     value, grad = value_and_grad(params, state=state)
    ...     params, state = fx.step(tx, grad, state, params, value=value, grad=grad, value_fn=f)
    ...     print(f"{f(params):.2f}")
    5.04
    1.81
    0.65
    """

    def value_and_grad(params: Params, *args: Any, state: State, **kwargs: Any) -> tuple[Tensor, Updates]:
        value, grad = tree_get(state, "value"), tree_get(state, "grad")
        if value is None or grad is None or grad == ():
            raise ValueError(
                "the state has no value and gradient: end the chain with scale_by_zoom_linesearch, or with "
                "scale_by_backtracking_linesearch(store_grad=True)."
            )
        is_known = tracing.read_bool(torch.isfinite(value))
        if is_known is True:
            return value, grad
        evaluated = objective.value_and_grad(lambda p: value_fn(p, *args, **kwargs), params)
        return choose(is_known, (value, grad), evaluated) if isinstance(is_known, Tensor) else evaluated

    return value_and_grad
