"""Steps on the mean of several gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.core import (
    FROM_ONE,
    DType,
    GradientTransformation,
    Outline,
    Params,
    PyTree,
    Row,
    State,
    Stepper,
    Updates,
    check_count,
    check_state_dtype,
    check_transformation,
    plain,
    state_class,
    tracing,
    tree,
)
from optimfx.execution import ABSENT, check, check_state, count_from_zero, explain, kept_as, run


@state_class
class MultiStepsState(NamedTuple):
    """The state of a transformation that steps once in several calls."""

    step: Tensor  # shape=(): calls so far
    acc_grads: PyTree  # like the parameters: the sum of the gradients since the last step
    inner_state: State


@dataclass(frozen=True, eq=False)
class MultiSteps(Stepper):
    """The ``update`` of :func:`multi_steps`."""

    inner: GradientTransformation
    every: int
    state_dtype: torch.dtype | None

    def init(self, params: Params) -> MultiStepsState:
        inner_state = self.inner.init(params)
        leaves, spec = tree.flatten(params)
        sums: list[Any] = [
            ABSENT if leaf is None else kept_as(torch.zeros_like(leaf), self.state_dtype) for leaf in leaves
        ]
        return MultiStepsState(count_from_zero(params), tree.unflatten(spec, sums), inner_state)

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
    ) -> tuple[PyTree, MultiStepsState]:
        self.check(updates, state, params)
        leaves, spec = tree.flatten(updates if params is None else params)
        grads: list[Any] = spec.flatten_up_to(updates)
        sums: list[Any] = spec.flatten_up_to(state.acc_grads)
        with tracing.donating(inplace):
            sums = [s if grad is None else tree.added(s, grad, inplace) for s, grad in zip(sums, grads)]
        step = state.step + 1
        due = tracing.number(step) % self.every == 0
        waiting = leaves if stepping else _zeros(sums, grads), sums, state.inner_state
        if due is False:
            results, sums, inner_state = waiting
        else:
            means = tree.unflatten(spec, [None if grad is None else s / self.every for s, grad in zip(sums, grads)])
            meets = {"stepping": stepping, "inplace": inplace and due is True}
            results, inner_state = run(self.inner, means, state.inner_state, params, **meets, **extra)
            begun = [s if zero is None else zero for s, zero in zip(sums, _zeros(sums, grads))]
            results, sums, inner_state = _either(due, (spec.flatten_up_to(results), begun, inner_state), waiting)
            if stepping and inplace:
                with tracing.donating(inplace, leaves):
                    results = [old if old is new else old.copy_(new) for old, new in zip(leaves, results)]
        return tree.unflatten(spec, results), MultiStepsState(step, tree.unflatten(spec, sums), inner_state)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check_state("multi_steps", MultiStepsState, state)
        check(self.inner, updates, state.inner_state, params)
        like = "updates" if params is None else "params"
        _, spec = tree.flatten(updates if params is None else params)
        sums = tree.flatten_as(spec, state.acc_grads, "state.acc_grads", like)
        for i, (grad, total) in enumerate(zip(tree.flatten_as(spec, updates, "updates", like), sums)):
            if grad is not None:
                tree.check_counterpart(total, grad, spec, i, ("state.acc_grads", "updates"))

    def explain(self, params: Params) -> list[Row]:
        return explain(self.inner, params)

    def outline(self) -> Outline:
        return Outline("multi_steps", {"every": self.every, "state_dtype": self.state_dtype}, [("", self.inner)])


def multi_steps(
    inner: GradientTransformation, every: int, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Step once in several calls, on the mean of their gradients: large batches in small memory.

    .. math::
        \bar g = \frac{1}{k} \sum_{i=1}^{k} g_i

    The calls between leave the parameters and the state of ``inner`` as they are; as updates, they give zeros.

    Args:
        inner: what steps, with all that counts steps or measures gradients (schedules, clipping, averages) in it.
        every: :math:`k \ge 1`, the calls to a step.
        state_dtype: dtype of the sums; ``None`` for the parameters' own. Half precision loses what is small beside the
            sum.

    Returns:
        A transformation with state :class:`MultiStepsState`: ``step`` (0-d, calls so far), ``acc_grads`` (like the
        parameters) and ``inner_state``. A leaf without a gradient (``None``) adds nothing to its sum; in a call that
        steps, it sits out and keeps its sum for the next.

    Raises:
        ValueError: ``every`` is not an integer of at least 1. In every call, what ``inner`` raises in one that steps.
        TypeError: ``inner`` is no transformation, or ``state_dtype`` not a floating-point dtype.

    Inside ``torch.compile`` and ``torch.func`` transforms, where a count has no value to ask for, every call computes
    the step, and the condition selects; elsewhere the calls between cost an addition.

    Optax's ``MultiSteps`` keeps a running mean in place of the sum.

    >>> import torch, optimfx as fx
    >>> tx = fx.multi_steps(fx.sgd(lr=1.0), every=2)
    >>> params = {"w": torch.zeros(2)}
    >>> state = tx.init(params)
    >>> for grad in (torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])):
    ...     params, state = fx.step(tx, {"w": grad}, state, params)
    ...     print(params["w"])
    tensor([0., 0.])
    tensor([-2., -2.])
    """
    check_transformation("multi_steps: inner", inner)
    every = plain(every)
    check_count(FROM_ONE, every=every)
    check_state_dtype(state_dtype)
    return MultiSteps(inner, every, state_dtype).transformation()


def _zeros(sums: list[Any], grads: list[Any]) -> list[Any]:
    """As many as there are of gradients, in the dtypes of their sums."""
    return [None if grad is None else torch.zeros_like(s) for s, grad in zip(sums, grads)]


def _either(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
    """One of two trees: where the condition is a tensor, element by element. Counts stay shared by their leaves."""
    if condition is True:
        return yes
    leaves, spec = tree.flatten(yes)
    others: list[Any] = spec.flatten_up_to(no)
    chosen: list[Any] = []
    for i, (x, y) in enumerate(zip(leaves, others)):
        as_before = i > 0 and x is leaves[i - 1] and tracing.same(y, others[i - 1])
        chosen.append(chosen[-1] if as_before else x if x is y else torch.where(condition, x, y))
    return tree.unflatten(spec, chosen)
