"""Steps that are left out where gradients are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.combinators.select import choose, copy_into, number_not_finite, zeros_like
from optimfx.core import (
    NON_NEGATIVE,
    Description,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_count,
    check_transformation,
    state_class,
    to_python,
    tracing,
    tree,
)
from optimfx.execution import check, check_state, count_from_zero, explain, run


@state_class
class ApplyIfFiniteState(NamedTuple):
    """The state of a transformation that leaves steps out."""

    notfinite_count: Tensor  # shape=(): consecutive steps, up to the last, with non-finite gradients
    last_finite: Tensor  # shape=(): whether the last gradients were finite
    total_notfinite: Tensor  # shape=(): all steps with non-finite gradients
    inner_state: State


@dataclass(frozen=True, eq=False)
class ApplyIfFinite(StructuredUpdate):
    """The ``update`` of :func:`apply_if_finite`."""

    inner: GradientTransformation
    max_consecutive_errors: int

    def init(self, params: Params) -> ApplyIfFiniteState:
        none = count_from_zero(params)
        return ApplyIfFiniteState(none, none == 0, none.clone(), self.inner.init(params))

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
    ) -> tuple[PyTree, ApplyIfFiniteState]:
        check_state("apply_if_finite", ApplyIfFiniteState, state)
        finite = number_not_finite(updates) == 0
        in_a_row = torch.where(finite, 0, state.notfinite_count.to(finite.device) + 1)
        total = state.total_notfinite.to(finite.device) + ~finite
        applies = tracing.read_number(finite | (in_a_row > self.max_consecutive_errors))
        reference, spec = tree.flatten(updates if params is None else params)
        grads: list[Any] = tree.flatten_as(spec, updates, "updates", "params")
        waiting = (reference if stepping else zeros_like(grads, grads)), state.inner_state
        if applies is False:
            self.check(updates, state, params)
            results, inner_state = waiting
        else:
            known = applies is True
            how = {"stepping": stepping, "inplace": inplace and known, "spare_updates": spare_updates}
            whole, after = run(self.inner, updates, state.inner_state, params, **how, **extra)
            results, inner_state = choose(applies, (spec.flatten_up_to(whole), after), waiting)
            if stepping and inplace and not known:
                results = copy_into(reference, results)
        return tree.unflatten(spec, results), ApplyIfFiniteState(in_a_row, finite, total, inner_state)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check_state("apply_if_finite", ApplyIfFiniteState, state)
        check(self.inner, updates, state.inner_state, params)

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.inner, params)

    def description(self) -> Description:
        return Description(
            "apply_if_finite", {"max_consecutive_errors": self.max_consecutive_errors}, [("", self.inner)]
        )


def apply_if_finite(inner: GradientTransformation, max_consecutive_errors: int) -> GradientTransformation:
    """Leave a step out if a gradient is infinite or NaN; after too many in a row, take it nevertheless.

    A step that is left out leaves the parameters and the state of ``inner`` as they are; as updates, it gives zeros.

    Args:
        inner: what steps, with all that looks at gradients in it.
        max_consecutive_errors: how many steps in a row are left out, at least 0; the next one is taken, so that an
            error that does not go away shows.

    Returns:
        A transformation with state :class:`ApplyIfFiniteState`: ``notfinite_count`` (0-d, steps in a row whose
        gradients were not finite), ``last_finite`` (0-d, whether the last ones were), ``total_notfinite`` (0-d) and
        ``inner_state``.

    Raises:
        ValueError: ``max_consecutive_errors`` is not an integer of at least 0.
        TypeError: ``inner`` is not a transformation.

    On a device, inside ``torch.compile`` and under ``torch.func`` transforms, where the answer cannot be read, every
    call computes the step, and the condition selects. Optax's has the same name and state.

    >>> import torch, optimfx as fx
    >>> tx = fx.apply_if_finite(fx.sgd(lr=1.0), max_consecutive_errors=3)
    >>> params = {"w": torch.zeros(2)}
    >>> state = tx.init(params)
    >>> for grad in (torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])):
    ...     params, state = fx.step(tx, {"w": grad}, state, params)
    >>> params, state.total_notfinite
    ({'w': tensor([-1., -2.])}, tensor(1))
    """
    check_transformation("apply_if_finite: inner", inner)
    max_consecutive_errors = to_python(max_consecutive_errors)
    check_count(NON_NEGATIVE, max_consecutive_errors=max_consecutive_errors)
    return ApplyIfFinite(inner, max_consecutive_errors).as_transformation()
