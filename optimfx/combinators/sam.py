"""Sharpness-aware minimization: the gradient at the end of a climb, for a step from its start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.combinators.select import choose, copy_of
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    Column,
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
    tracing,
    tree,
)
from optimfx.execution import add_updates, check, check_state, count_from_zero, explain, run

GradFn = Callable[[Params, int], Updates]


@state_class
class SamState(NamedTuple):
    """The state of a sharpness-aware optimizer."""

    steps_since_sync: Tensor  # shape=(): steps of the climb that the parameters have taken
    opt_state: State
    adv_state: State
    cache: PyTree  # like the parameters: where the climb began; () if a climb is within an update


@dataclass(frozen=True, eq=False)
class Sam(StructuredUpdate):
    """The ``update`` of :func:`sam`."""

    optimizer: GradientTransformation
    adv_optimizer: GradientTransformation
    sync_period: int
    reset_state: bool
    opaque_mode: bool

    def init(self, params: Params) -> SamState:
        cache = () if self.opaque_mode else copy_of(params)
        return SamState(count_from_zero(params), self.optimizer.init(params), self.adv_optimizer.init(params), cache)

    def run(
        self,
        updates: Updates,
        state: State,
        params: Params | None,
        *,
        stepping: bool,
        inplace: bool,
        spare_updates: bool = False,
        grad_fn: GradFn | None = None,
        **extra: Any,
    ) -> tuple[PyTree, SamState]:
        check_state("sam", SamState, state)
        if params is None:
            raise ValueError("sam needs params: update(updates, state, params).")
        if not self.opaque_mode:
            return self._climb_or_step(updates, state, params, stepping=stepping, inplace=inplace, **extra)
        if grad_fn is None:
            raise ValueError("sam(opaque_mode=True) needs grad_fn: update(updates, state, params, grad_fn=...).")
        return self._climb_and_step(updates, state, params, grad_fn, stepping, inplace, **extra)

    def _climb_and_step(
        self,
        updates: Updates,
        state: SamState,
        params: Params,
        grad_fn: GradFn,
        stepping: bool,
        inplace: bool,
        **extra: Any,
    ) -> tuple[PyTree, SamState]:
        """Climb from the parameters, and step from them with the gradients that are found there."""
        column, spec = tree.flatten(params)
        climbed, adv_state = column, state.adv_state
        for i in range(self.sync_period - 1):
            climb, adv_state = self._climb(updates, adv_state, tree.unflatten(spec, climbed), **extra)
            climbed = add_updates(climbed, climb, spec, inplace=False)
            updates = grad_fn(tree.unflatten(spec, climbed), i)
        if self.reset_state:
            adv_state = self.adv_optimizer.init(params)
        # What grad_fn gave back may be kept by whoever wrote it.
        how = {"stepping": stepping, "inplace": inplace, "spare_updates": True, **extra}
        results, opt_state = run(self.optimizer, updates, state.opt_state, params, **how)
        return results, SamState(state.steps_since_sync, opt_state, adv_state, ())

    def _climb_or_step(
        self, updates: Updates, state: SamState, params: Params, *, stepping: bool, inplace: bool, **extra: Any
    ) -> tuple[PyTree, SamState]:
        """Climb, or step from where the climb began: the count says which."""
        count = state.steps_since_sync
        begins, ends = (tracing.read_bool(count == at) for at in (0, self.sync_period - 1))
        column, spec = tree.flatten(params)
        cache = state.cache if begins is False else choose(begins, copy_of(params), state.cache)
        results: Column = column
        opt_state, adv_state = state.opt_state, state.adv_state
        if ends is not True:
            results, adv_state = self._climb(updates, adv_state, params, **extra)
        if ends is not False:
            step, after = run(self.optimizer, updates, opt_state, cache, stepping=False, inplace=False, **extra)
            rested = self.adv_optimizer.init(params) if self.reset_state else state.adv_state
            back = [_subtract(c, p, u) for c, p, u in zip(*(spec.flatten_up_to(x) for x in (cache, params, step)))]
            results, opt_state, adv_state = choose(ends, (back, after, rested), (results, opt_state, adv_state))
        if stepping:
            results = add_updates(column, results, spec, inplace=inplace)
        after_sync = (count + 1) % self.sync_period
        return tree.unflatten(spec, results), SamState(after_sync, opt_state, adv_state, cache)

    def _climb(self, updates: Updates, state: State, params: Params, **extra: Any) -> tuple[Column, State]:
        """Negate what the adversarial optimizer adds to go down."""
        down, state = run(self.adv_optimizer, updates, state, params, stepping=False, inplace=False, **extra)
        column, spec = tree.flatten(params)
        steps: list[Any] = spec.flatten_up_to(down)
        return [p if p is None else torch.zeros_like(p) if u is None else -u for p, u in zip(column, steps)], state

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check_state("sam", SamState, state)
        check(self.adv_optimizer, updates, state.adv_state, params)
        check(self.optimizer, updates, state.opt_state, params)

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.adv_optimizer, params) + explain(self.optimizer, params)

    def description(self) -> Description:
        options = {
            "sync_period": self.sync_period,
            "reset_state": self.reset_state,
            "opaque_mode": self.opaque_mode,
        }
        return Description("sam", options, [("optimizer", self.optimizer), ("adv_optimizer", self.adv_optimizer)])


def sam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
) -> GradientTransformation:
    r"""Sharpness-aware minimization (SAM): step with the gradient that is found uphill.

    .. math::
        \hat\theta = \theta_{t-1} + \rho \frac{\nabla f(\theta_{t-1})}{\lVert \nabla f(\theta_{t-1}) \rVert},
        \qquad \theta_t = \theta_{t-1} - \gamma \nabla f(\hat\theta)

    This is ``sam(sgd(gamma), chain(normalize(), sgd(rho)))``; any transformations will do. With ``sync_period``
    above 2, the climb has more steps.

    By default a call does one step, of the climb or of the optimizer, and the parameters between are those uphill: the
    training loop stays as it is, at half the pace. With ``opaque_mode``, a call does all of it and asks ``grad_fn`` for
    the gradients uphill: ``update(grads, state, params, grad_fn=grad_fn)``. ``grad_fn(params, i)`` gives the gradients
    for the next of the climb's steps, ``i`` from 0.

    Args:
        optimizer: makes the step that stays.
        adv_optimizer: makes the steps of the climb: its updates are negated. Its learning rate is the radius
            :math:`\rho`.
        sync_period: gradients for a step of ``optimizer``, at least 1.
        reset_state: begin each climb with a fresh state of ``adv_optimizer``.
        opaque_mode: do a whole climb in an update, with ``grad_fn``.

    Returns:
        A transformation with state :class:`SamState`: ``steps_since_sync`` (0-d), ``opt_state``, ``adv_state``, and
        ``cache`` (like the parameters, where the climb began; ``()`` in the opaque mode).

    Raises:
        ValueError, TypeError: an argument is of another type or out of range; at ``update``, no ``params``, or in the
            opaque mode no ``grad_fn``.

    References:
        Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2020.

    As Optax's. Under ``torch.compile`` and ``torch.func`` transforms both outcomes of a step are computed. torch has
    no SAM.

    >>> import torch, optimfx as fx
    >>> tx = fx.sam(fx.sgd(0.5), fx.chain(fx.normalize(), fx.sgd(0.1)), opaque_mode=True)
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> grads, state = params, tx.init(params)  # of half the square
    >>> fx.step(tx, grads, state, params, grad_fn=lambda p, i: p)[0]
    {'w': tensor([1.4700, 1.9600])}
    """
    check_transformation("sam: optimizer", optimizer)
    check_transformation("sam: adv_optimizer", adv_optimizer)
    check_count(AT_LEAST_ONE, sync_period=sync_period)
    return Sam(optimizer, adv_optimizer, sync_period, reset_state, opaque_mode).as_transformation()


def _subtract(start: Array, param: Array, update: Array) -> Array:
    """Find the update that leads from a parameter uphill to where the step from the start leads."""
    return start if start is None else start - param if update is None else start - param + update
