"""Algorithms that evaluate the function themselves, and see all parameters as one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimfx.core import (
    Description,
    DType,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_state_dtype,
    tracing,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.execution import check_state
from optimfx.execution.memory.dtypes import cast_state, real
from optimfx.execution.memory.vector import join, split
from optimfx.execution.step import tensor_like

Evaluation = tuple[Any, Tensor]
"""The value, a scalar, and the gradient, shape=(n,)."""


@dataclass(frozen=True, eq=False)
class Minimizer(StructuredUpdate):
    """The ``update`` of an algorithm on one vector.

    Attributes:
        name: what messages call it.
        begin: the state for a vector: a NamedTuple of tensors and numbers, ``step`` first.
        minimize: ``(x, evaluation at x, evaluate, state, **hyper) -> (x, state)``. In the state that it is given, what
            is 0-d and can be read is a number.
        hyper: the hyperparameters, resolved before each call.
        state_dtype: of the state's vectors and matrices.
    """

    name: str
    begin: Callable[..., Any]
    minimize: Callable[..., tuple[Tensor, Any]]
    hyper: dict[str, Any]
    state_dtype: torch.dtype | None

    def init(self, params: Params) -> State:
        leaves, spec = tree.flatten(params)
        for i, leaf in enumerate(leaves):
            if leaf is not None:
                tree.check_leaf(leaf, spec, i, "params")
        x = join(leaves, leaves)
        state = self.begin(x, **self.hyper)
        return type(state)(*[self._kept(field, x) for field in state])

    def run(
        self,
        updates: Updates,
        state: State,
        params: Params | None,
        *,
        stepping: bool,
        inplace: bool,
        value_and_grad_fn: Callable[[Params], tuple[Any, Updates]] | None = None,
        value: Any = None,
        **extra: Any,
    ) -> tuple[PyTree, State]:
        self.check(updates, state, params)
        if value_and_grad_fn is None:
            raise TypeError(
                f"{self.name} evaluates the function itself: call update(grads, state, params, value_and_grad_fn=f) "
                f"with f(params) -> (value, grads)."
            )
        leaves, spec = tree.flatten(params)
        x = join(leaves, leaves)

        def evaluate(x: Tensor) -> Evaluation:
            return _evaluation(value_and_grad_fn(tree.unflatten(spec, split(x, leaves))), leaves, spec)

        given = value is not None
        first = _evaluation((value, updates), leaves, spec) if given else evaluate(x)
        hyper = {name: resolve(h, as_step_number(state.step)) for name, h in self.hyper.items()}
        loaded = type(state)(*[v.to(x.dtype) if v.dim() else tracing.read_number(v) for v in state])
        new_x, after = self.minimize(x, first, evaluate, loaded, **hyper)
        # Copy each leaf: a view would keep the whole vector alive.
        results = [None if r is None else r.clone() for r in split(new_x if stepping else new_x - x, leaves)]
        kept = [v.to(old.device, old.dtype) if old.dim() else tensor_like(v, old) for v, old in zip(after, state)]
        if inplace:
            with tracing.no_grad_if_inplace(inplace, leaves):
                buffers = leaves if stepping else tree.flatten_as(spec, updates, "updates", "params")
                results = [_reuse(b, r) for b, r in zip(buffers, results)]
                kept = [_reuse(old, v) for old, v in zip(state, kept)]
        return tree.unflatten(spec, results), type(state)(*kept)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        if params is None:
            raise ValueError(f"{self.name} needs the parameters here: call update(updates, state, params).")
        leaves, spec = tree.flatten(params)
        wanted = self.begin(torch.empty(0, device="cpu"), **self.hyper)
        check_state(self.name, type(wanted), state)
        # Without parameters, dimensions of the vector's length are 0.
        n = sum(real(leaf).numel() for leaf in leaves if leaf is not None)
        for name, field, like in zip(state._fields, state, wanted):
            if isinstance(like, Tensor) and like.dim() and like.shape[-1] == 0 and field.shape[-1] != n:
                raise ValueError(
                    f"state.{name} has shape {tuple(field.shape)}, but the parameters have {n} elements; the state "
                    f"must come from init on parameters like these."
                )
        if updates is not None:
            tree.flatten_like(spec, updates, leaves, "updates")

    def _kept(self, field: Any, x: Tensor) -> Tensor | None:
        """Make a field of a new state: a count, a scalar in float64, or a vector or matrix."""
        if isinstance(field, Tensor):
            return cast_state(field.clone(), self.state_dtype)
        return torch.tensor(field, dtype=torch.int64 if isinstance(field, int) else torch.float64, device=x.device)

    def explain(self, params: Params) -> list[ExecutionRow]:
        leaves = [leaf for leaf in tree.flatten(params)[0] if leaf is not None]
        x = join(leaves, leaves)
        dtype = str(x.dtype).removeprefix("torch.")
        return [
            ExecutionRow(self.name, "eager", len(leaves), x.numel(), dtype, str(x.device), "one vector for all leaves")
        ]

    def description(self) -> Description:
        return Description(self.name, {**self.hyper, "state_dtype": self.state_dtype})


def minimizer(
    name: str, begin: Callable[..., Any], minimize: Callable[..., Any], state_dtype: DType | None, **hyper: Any
) -> GradientTransformation:
    """Make a transformation of an algorithm on one vector and its hyperparameters; see :class:`Minimizer`."""
    check_state_dtype(state_dtype)
    return Minimizer(name, begin, minimize, hyper, state_dtype).as_transformation()


def _evaluation(returned: Any, leaves: Sequence[Any], spec: Any) -> Evaluation:
    """Convert what the user's function returned to a scalar and a vector."""
    value, grads = returned
    if not isinstance(value, (int, float)) and not (isinstance(value, Tensor) and value.dim() == 0):
        raise TypeError(
            f"value_and_grad_fn must return (value, grads) with a scalar value; got a {type(value).__name__} first. "
            f"torch.func.grad_and_value returns (grads, value): swap them."
        )
    return tracing.read_number(value), join(tree.flatten_like(spec, grads, leaves, "grads"), leaves)


def _reuse(buffer: Any, result: Any) -> Any:
    # Expanded tensors are not writable; under torch.vmap, scalars shared by all members arrive expanded.
    if buffer is None or result is None or 0 in buffer.stride() or (tracing.active() and buffer.dim() == 0):
        return result
    return buffer.copy_(result)
