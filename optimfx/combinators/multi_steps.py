"""Steps on the mean of several gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from optimfx.combinators.select import choose, copy_into, number_not_finite, zeros_like
from optimfx.core import (
    AT_LEAST_ONE,
    Description,
    DType,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_count,
    check_state_dtype,
    check_transformation,
    state_class,
    to_python,
    tracing,
    tree,
)
from optimfx.execution import ABSENT, cast_state, check, check_state, count_from_zero, explain, run

ShouldSkipUpdateFunction: TypeAlias = Callable[[Updates, Tensor, Params | None], tuple[Any, PyTree]]
"""Whether a call is skipped, and what is kept of it: a function of updates, steps so far and parameters."""


@state_class
class MultiStepsState(NamedTuple):
    """The state of a transformation that steps once in several calls."""

    step: Tensor  # shape=(): calls so far, except skipped ones
    acc_grads: PyTree  # like the parameters: the sum of the gradients since the last step
    inner_state: State
    skip_state: Any = ABSENT  # what should_skip_update_fn returned at the last call


@dataclass(frozen=True, eq=False)
class MultiSteps(StructuredUpdate):
    """The ``update`` of :func:`multi_steps`."""

    inner: GradientTransformation
    every: int
    state_dtype: torch.dtype | None
    should_skip_update_fn: ShouldSkipUpdateFunction | None

    def init(self, params: Params) -> MultiStepsState:
        inner_state = self.inner.init(params)
        leaves, spec = tree.flatten(params)
        sums: list[Any] = [
            ABSENT if leaf is None else cast_state(torch.zeros_like(leaf), self.state_dtype) for leaf in leaves
        ]
        step, skip_state = count_from_zero(params), ABSENT
        if self.should_skip_update_fn is not None:
            zeros = [None if leaf is None else torch.zeros_like(leaf) for leaf in leaves]
            _, skip_state = self.should_skip_update_fn(tree.unflatten(spec, zeros), step, params)
        return MultiStepsState(step, tree.unflatten(spec, sums), inner_state, skip_state)

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
        before: list[Any] = spec.flatten_up_to(state.acc_grads)
        skip, skip_state = self._skip(updates, state, params)
        if skip is True:
            results = leaves if stepping else zeros_like(before, grads)
            return tree.unflatten(spec, results), state._replace(skip_state=skip_state)
        known = skip is False
        with tracing.no_grad_if_inplace(inplace):
            sums = [
                s if grad is None else tree.add_in_dtype(s, grad, inplace and known) for s, grad in zip(before, grads)
            ]
        step = state.step + 1
        due = tracing.read_number(step) % self.every == 0
        waiting = leaves if stepping else zeros_like(sums, grads), sums, state.inner_state
        if due is False:
            results, sums, inner_state = waiting
        else:
            means = tree.unflatten(spec, [None if grad is None else s / self.every for s, grad in zip(sums, grads)])
            meets = {"stepping": stepping, "inplace": inplace and due is True and known}
            results, inner_state = run(self.inner, means, state.inner_state, params, **meets, **extra)
            begun = [s if grad is None else torch.zeros_like(s) for s, grad in zip(sums, grads)]
            results, sums, inner_state = choose(due, (spec.flatten_up_to(results), begun, inner_state), waiting)
        if not known:
            skipped = leaves if stepping else zeros_like(before, grads), before, state.inner_state, state.step
            results, sums, inner_state, step = choose(~skip, (results, sums, inner_state, step), skipped)
        if inplace and stepping:
            results = copy_into(leaves, results)
        return tree.unflatten(spec, results), MultiStepsState(step, tree.unflatten(spec, sums), inner_state, skip_state)

    def _skip(self, updates: Updates, state: State, params: Params | None) -> tuple[Any, Any]:
        """Whether the call is skipped, and what is said of it."""
        if self.should_skip_update_fn is None:
            return False, ABSENT
        steps = torch.div(state.step, self.every, rounding_mode="floor")
        skip, skip_state = self.should_skip_update_fn(updates, steps, params)
        return tracing.read_number(skip), skip_state

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check_state("multi_steps", MultiStepsState, state)
        check(self.inner, updates, state.inner_state, params)
        like = "updates" if params is None else "params"
        _, spec = tree.flatten(updates if params is None else params)
        sums = tree.flatten_as(spec, state.acc_grads, "state.acc_grads", like)
        for i, (grad, total) in enumerate(zip(tree.flatten_as(spec, updates, "updates", like), sums)):
            if grad is not None:
                tree.check_counterpart(total, grad, spec, i, ("state.acc_grads", "updates"))

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.inner, params)

    def description(self) -> Description:
        hyper = {
            "every": self.every,
            "state_dtype": self.state_dtype,
            "should_skip_update_fn": self.should_skip_update_fn,
        }
        return Description("multi_steps", hyper, [("", self.inner)])


def multi_steps(
    inner: GradientTransformation,
    every: int,
    *,
    state_dtype: DType | None = None,
    should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
) -> GradientTransformation:
    r"""Step once in several calls, on the mean of their gradients: large batches in small memory.

    .. math::
        \bar g = \frac{1}{k} \sum_{i=1}^{k} g_i

    The calls between leave the parameters and the state of ``inner`` as they are; as updates, they give zeros.

    Args:
        inner: what steps, with all that counts steps or measures gradients (schedules, clipping, averages) in it.
        every: :math:`k \ge 1`, the calls to a step.
        state_dtype: dtype of the sums; ``None`` for the parameters' own. In half precision, small addends are lost.
        should_skip_update_fn: ``(updates, gradient_step, params) -> (skip, skip_state)``: whether a call is to be as if
            it had not been, a bool or a 0-d bool tensor, after so many steps of ``inner``; and a tree of tensors that
            says of what kind it was. :func:`skip_not_finite`, or a :func:`functools.partial` of
            :func:`skip_large_updates`.

    Returns:
        A transformation with state :class:`MultiStepsState`: ``step`` (0-d, calls so far, except those that were
        skipped), ``acc_grads`` (like the parameters), ``inner_state`` and ``skip_state``. A leaf without a gradient
        (``None``) adds nothing to its sum; in a call that steps, it is skipped and keeps its sum for the next.

    Raises:
        ValueError: ``every`` is not an integer of at least 1. In every call, what ``inner`` raises in one that steps.
        TypeError: ``inner`` is not a transformation, ``state_dtype`` not a floating-point dtype, or
            ``should_skip_update_fn`` no function.

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
    every = to_python(every)
    check_count(AT_LEAST_ONE, every=every)
    check_state_dtype(state_dtype)
    if not (should_skip_update_fn is None or callable(should_skip_update_fn)):
        raise TypeError(
            f"should_skip_update_fn must be a function (updates, gradient_step, params) -> (skip, skip_state), such as "
            f"skip_not_finite; got {should_skip_update_fn!r:.200}."
        )
    return MultiSteps(inner, every, state_dtype, should_skip_update_fn).as_transformation()


def skip_not_finite(updates: Updates, gradient_step: Tensor, params: Params | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Skip a call of :func:`multi_steps` whose gradients are not all finite.

    Args:
        updates: the gradients.
        gradient_step: steps taken so far; not used.
        params: not used.

    Returns:
        Whether to skip, and ``{"should_skip": that, "num_not_finite": how many elements are infinite or NaN}``.

    >>> import torch, optimfx as fx
    >>> tx = fx.multi_steps(fx.sgd(lr=1.0), every=2, should_skip_update_fn=fx.skip_not_finite)
    >>> params = {"w": torch.zeros(1)}
    >>> state = tx.init(params)
    >>> for grad in (1.0, float("nan"), 3.0):
    ...     params, state = fx.step(tx, {"w": torch.tensor([grad])}, state, params)
    >>> params
    {'w': tensor([-2.])}
    """
    count = number_not_finite(updates)
    return count > 0, {"should_skip": count > 0, "num_not_finite": count}


def skip_large_updates(
    updates: Updates, gradient_step: Tensor, params: Params | None, max_squared_norm: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Skip a call of :func:`multi_steps` whose gradients are large: give ``max_squared_norm`` by ``functools.partial``.

    Args:
        updates: the gradients.
        gradient_step: steps taken so far; not used.
        params: not used.
        max_squared_norm: the square of the largest global 2-norm with which a call counts.

    Returns:
        Whether to skip, and ``{"should_skip": that, "norm_squared": the square of the norm}``, which is NaN or infinite
        where a gradient is; such a call is skipped too.

    Raises:
        TypeError: ``max_squared_norm`` is missing.

    >>> import functools, torch, optimfx as fx
    >>> small = functools.partial(fx.skip_large_updates, max_squared_norm=4.0)
    >>> tx = fx.multi_steps(fx.sgd(lr=1.0), every=1, should_skip_update_fn=small)
    >>> params = {"w": torch.zeros(1)}
    >>> fx.step(tx, {"w": torch.tensor([3.0])}, tx.init(params), params)[0]
    {'w': tensor([0.])}
    """
    norm_squared = tree.global_norm(updates) ** 2
    skip = ~(norm_squared <= max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": norm_squared}
