"""A learning rate that is learned: the updates of any optimizer, scaled by what bets on them would have won."""

from __future__ import annotations

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
    Hyper,
    NonNegative,
    Params,
    Positive,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_count,
    check_transformation,
    factory,
    state_class,
    tracing,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.execution import add_updates, check, check_state, count_from_zero, explain, run
from optimfx.execution.memory.dtypes import real


@state_class
class MechanicState(NamedTuple):
    """The state of a learned learning rate."""

    step: Tensor  # shape=(): updates taken
    r: Tensor  # shape=(num_betas,): what the bets have won
    m: Tensor  # shape=(num_betas,): the largest correlation so far, decayed
    v: Tensor  # shape=(num_betas,): sum of the squared correlations, decayed
    s: Tensor  # shape=(num_betas,): the scales, whose sum multiplies the updates
    x0: PyTree  # like the parameters: where they began
    base_optimizer_state: State


@dataclass(frozen=True, eq=False)
class Mechanize(StructuredUpdate):
    """The ``update`` of :func:`mechanize`."""

    base_optimizer: GradientTransformation
    weight_decay: Hyper
    eps: Hyper
    s_init: Hyper
    num_betas: int

    def init(self, params: Params) -> MechanicState:
        leaves = [p for p in tree.flatten(params)[0] if p is not None]
        like = leaves[0] if leaves else torch.zeros(())
        dtype = torch.promote_types(real(like).dtype, torch.float32)
        zeros = torch.zeros(self.num_betas, dtype=dtype, device=like.device)
        r, m, v, s = zeros, zeros.clone(), zeros.clone(), zeros + resolve(self.s_init, 0)
        return MechanicState(count_from_zero(params), r, m, v, s, copy_of(params), self.base_optimizer.init(params))

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
    ) -> tuple[PyTree, MechanicState]:
        check_state("mechanize", MechanicState, state)
        if params is None:
            raise ValueError("mechanize needs params: update(updates, state, params).")
        column, spec = tree.flatten(params)
        grads: list[Any] = tree.flatten_as(spec, updates, "updates", "params")
        begins = tracing.read_bool(state.step == 0)
        x0 = state.x0 if begins is False else choose(begins, copy_of(params), state.x0)
        given = {"stepping": False, "inplace": False, **extra}
        moves, inner_state = run(self.base_optimizer, updates, state.base_optimizer_state, params, **given)
        places = [i for i, grad in enumerate(grads) if grad is not None]
        at = [[each[i] for i in places] for each in (column, grads, spec.flatten_up_to(x0), spec.flatten_up_to(moves))]
        steps, (r, m, v, s) = self._bet(state, *at)
        results: list[Array] = [None] * len(column)
        for place, step in zip(places, steps):
            results[place] = step
        if stepping:
            results = add_updates(column, results, spec, inplace=inplace)
        return tree.unflatten(spec, results), MechanicState(state.step + 1, r, m, v, s, x0, inner_state)

    def _bet(
        self, state: MechanicState, params: Column, grads: Column, start: Column, moves: Column
    ) -> tuple[Column, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Scale what the base optimizer has added up, by the winnings of betting on it."""
        weight_decay, eps, s_init = (
            resolve(hyper, as_step_number(state.step)) for hyper in (self.weight_decay, self.eps, self.s_init)
        )
        scale = state.s.sum()
        pull = weight_decay * scale * tree.norm_of_leaves([*grads]) / (tree.norm_of_leaves([*params]) + eps)
        before = [(x0 - p) / (scale + eps).to(p.dtype) for p, x0 in zip(params, start)]
        h = tree.dot_of_leaves([g + pull.to(g.dtype) * p for p, g in zip(params, grads)], before).to(state.s)
        betas = 1 - 0.1 ** torch.arange(1, self.num_betas + 1, dtype=h.dtype, device=h.device)
        r = betas * state.r + torch.minimum(torch.maximum(h, -state.m), state.m) * state.s
        m = torch.maximum(betas * state.m, h.abs() + eps)
        v = betas**2 * state.v + h**2
        wealth = s_init / self.num_betas * m + r.clamp(min=0)
        s = wealth / (v.sqrt() + eps)
        size = s.sum()
        steps = [
            x0 - size.to(p.dtype) * (d if u is None else d - u) - p for p, x0, d, u in zip(params, start, before, moves)
        ]
        return steps, (r, m, v, s)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check_state("mechanize", MechanicState, state)
        check(self.base_optimizer, updates, state.base_optimizer_state, params)

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.base_optimizer, params)

    def description(self) -> Description:
        names = ("weight_decay", "eps", "s_init", "num_betas")
        return Description("mechanize", {name: getattr(self, name) for name in names}, [("", self.base_optimizer)])


@factory
def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: NonNegative = 1e-2,
    eps: Positive = 1e-8,
    s_init: Positive = 1e-6,
    num_betas: int = 6,
) -> GradientTransformation:
    r"""Mechanic: learn the scale of an optimizer's updates.

    .. math::
        \Delta_t &= \Delta_{t-1} - u_t, \qquad \theta_t = x_0 - \Delta_t \sum_i s_{t,i}, \qquad
            h_t = \left\langle g_t + \lambda \frac{\lVert g_t \rVert}{\lVert \theta_{t-1} \rVert} \theta_{t-1}
            \sum_i s_{t-1,i}, \; \Delta_{t-1} \right\rangle \\
        m_t &= \max(\beta m_{t-1}, |h_t|), \qquad v_t = \beta^2 v_{t-1} + h_t^2, \qquad
            r_t = \beta r_{t-1} + s_{t-1} \operatorname{clip}(h_t, -m_{t-1}, m_{t-1}) \\
        s_t &= \frac{s_0 m_t / n + \max(0, r_t)}{\sqrt{v_t} + \epsilon}

    for each of the :math:`n` decays :math:`\beta` = 0.9, 0.99, ... The base optimizer's learning rate is 1, or a
    schedule whose largest value is 1.

    Args:
        base_optimizer: makes the updates :math:`u_t`.
        weight_decay: :math:`\lambda \ge 0`, in the correlation :math:`h` alone.
        eps: :math:`\epsilon > 0`.
        s_init: :math:`s_0 > 0`, the first scale.
        num_betas: :math:`n \ge 1`.

    Returns:
        A transformation with state :class:`MechanicState`: ``step`` (0-d), ``r``, ``m``, ``v``, ``s`` (shape
        (num_betas,)), ``x0`` (like the parameters) and ``base_optimizer_state``.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type; at ``update``, no ``params``.

    References:
        Cutkosky et al., Mechanic: A Learning Rate Tuner, 2023.

    As Optax's; a leaf without gradient stays as it is. torch has no Mechanic.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.mechanize(fx.sgd(1.0)), {"w": torch.tensor([1.0])}
    >>> state = tx.init(params)
    >>> for _ in range(200):  # of half the square
    ...     params, state = fx.step(tx, params, state, params)
    >>> params["w"].abs().item() < 0.1
    True
    """
    check_transformation("mechanize: base_optimizer", base_optimizer)
    check_count(AT_LEAST_ONE, num_betas=num_betas)
    return Mechanize(base_optimizer, weight_decay, eps, s_init, num_betas).as_transformation()
