"""Transformations that are applied at some steps only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from optimfx.combinators.select import choose, zeros_like
from optimfx.core import (
    Description,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_transformation,
    state_class,
    tracing,
    tree,
)
from optimfx.execution import add_updates, check, check_state, count_from_zero, explain, run


@state_class
class ConditionalState(NamedTuple):
    """The state of a transformation that is applied at some steps."""

    step: Tensor  # shape=(): updates taken, with those at which it was not applied
    inner_state: State


@dataclass(frozen=True, eq=False)
class Conditional(StructuredUpdate):
    """The ``update`` of a transformation that is applied where a function of the step says so."""

    inner: GradientTransformation
    should_transform_fn: Callable[..., Any]
    forward_extra_args: bool
    masks: bool
    name: str

    def init(self, params: Params) -> ConditionalState:
        return ConditionalState(count_from_zero(params), self.inner.init(params))

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
    ) -> tuple[PyTree, ConditionalState]:
        check_state(self.name, ConditionalState, state)
        condition = self.should_transform_fn(state.step, **(extra if self.forward_extra_args else {}))
        applies = tracing.read_bool(condition) if isinstance(condition, Tensor) else bool(condition)
        reference, spec = tree.flatten(updates if params is None else params)
        grads: list[Any] = tree.flatten_as(spec, updates, "updates", "params")
        known = isinstance(applies, bool)
        others, after = zeros_like(grads, grads) if self.masks else grads, state.inner_state
        if applies is not False:
            # Both outcomes may be needed: nothing of the one may be written over by the other.
            how = {"inplace": inplace and known, "spare_updates": spare_updates}
            whole, inner_state = run(self.inner, updates, after, params, stepping=False, **how, **extra)
            others, after = choose(applies, (spec.flatten_up_to(whole), inner_state), (others, after))
        if stepping:
            others = add_updates(reference, others, spec, inplace=inplace)
        return tree.unflatten(spec, others), ConditionalState(state.step + 1, after)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check_state(self.name, ConditionalState, state)
        check(self.inner, updates, state.inner_state, params)

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.inner, params)

    def description(self) -> Description:
        return Description(self.name, {"should_transform_fn": self.should_transform_fn}, [("", self.inner)])


def conditionally_transform(
    inner: GradientTransformation, should_transform_fn: Callable[..., Any], forward_extra_args: bool = False
) -> GradientTransformation:
    """Apply a transformation at some steps, and hand the updates on as they are at the others.

    Args:
        inner: what is applied; its state changes at these steps only.
        should_transform_fn: a function of the number of steps taken (a 0-d tensor), which says whether.
        forward_extra_args: give it the further arguments of ``update`` too.

    Returns:
        A transformation with state :class:`ConditionalState`: ``step`` (0-d) and ``inner_state``.

    Raises:
        TypeError: ``inner`` is not a transformation.

    As Optax's. Under ``torch.compile`` and ``torch.func`` transforms both outcomes are computed.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.conditionally_transform(fx.scale(10.0), lambda step: step % 2 == 1), {"w": torch.ones(1)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(params, state)
    ...     print(updates["w"].item())
    1.0
    10.0
    """
    check_transformation("conditionally_transform: inner", inner)
    update = Conditional(inner, should_transform_fn, forward_extra_args, masks=False, name="conditionally_transform")
    return update.as_transformation()


def conditionally_mask(
    inner: GradientTransformation, should_transform_fn: Callable[..., Any], forward_extra_args: bool = False
) -> GradientTransformation:
    """Apply a transformation at some steps, and give zeros at the others.

    Args:
        inner: what is applied; its state changes at these steps only.
        should_transform_fn: a function of the number of steps taken (a 0-d tensor), which says whether.
        forward_extra_args: give it the further arguments of ``update`` too.

    Returns:
        A transformation with state :class:`ConditionalState`: ``step`` (0-d) and ``inner_state``.

    Raises:
        TypeError: ``inner`` is not a transformation.

    As Optax's. Under ``torch.compile`` and ``torch.func`` transforms both outcomes are computed.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.conditionally_mask(fx.scale(10.0), lambda step: step % 2 == 1), {"w": torch.ones(1)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(params, state)
    ...     print(updates["w"].item())
    0.0
    10.0
    """
    check_transformation("conditionally_mask: inner", inner)
    update = Conditional(inner, should_transform_fn, forward_extra_args, masks=True, name="conditionally_mask")
    return update.as_transformation()
