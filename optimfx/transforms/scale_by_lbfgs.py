"""Updates times an inverse Hessian that the last few steps approximate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    Described,
    Description,
    GradientTransformation,
    Params,
    Scalar,
    State,
    Updates,
    check_count,
    factory,
    state_class,
    tree,
)
from optimfx.execution import check_state, count_from_zero
from optimfx.execution.memory.vector import join, split
from optimfx.rules._shared.quasi_newton import Pair, direction

NAME = "scale_by_lbfgs"


@state_class
class ScaleByLBFGSState(NamedTuple):
    """The state of L-BFGS's direction; its vectors are all parameters in one."""

    step: Tensor  # shape=(): updates taken
    prev_flat_params: Tensor  # shape=(n,): parameters at the last update
    prev_flat_grad: Tensor  # shape=(n,): the update that was scaled there
    old_dirs: Tensor  # shape=(memory_size, n): changes of the gradient, the newest last; 0 where there is none yet
    old_stps: Tensor  # shape=(memory_size, n): changes of the parameters
    ro: Tensor  # shape=(memory_size,): one over the products of the two; 0 where there is none yet


@dataclass(frozen=True, eq=False)
class ScaleByLBFGS(Described):
    """The ``update`` of :func:`scale_by_lbfgs`."""

    memory_size: int
    scale_init_precond: bool

    def init(self, params: Params) -> ScaleByLBFGSState:
        column, _ = tree.flatten(params)
        vector = torch.zeros_like(join(column, column))
        history = vector.new_zeros(self.memory_size, vector.numel())
        ro = vector.new_zeros(self.memory_size)
        return ScaleByLBFGSState(count_from_zero(params), vector, vector.clone(), history, history.clone(), ro)

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, ScaleByLBFGSState]:
        check_state(NAME, ScaleByLBFGSState, state)
        if params is None:
            raise ValueError(f"{NAME} needs params: update(updates, state, params).")
        column, spec = tree.flatten(params)
        given = tree.flatten_like(spec, updates, column, "updates")
        x, grad = join(column, column), join(given, column)
        if x.numel() != state.prev_flat_params.numel():
            raise ValueError(
                f"the state of {NAME} is of {state.prev_flat_params.numel()} numbers, but the parameters have "
                f"{x.numel()}; it must come from init on parameters like these."
            )
        begins = ops.read_bool(state.step == 0)
        pairs = zip(ops.unbind(state.old_dirs), ops.unbind(state.old_stps), ops.unbind(state.ro))
        newest = _pair(grad - state.prev_flat_grad, x - state.prev_flat_params, begins)
        history = (*[Pair(*pair) for pair in pairs][1:], newest)
        scale: Scalar = 1.0
        if self.scale_init_precond:
            yy = ops.dot(newest.y, newest.y)
            scale = ops.where(yy > 0, ops.dot(newest.y, newest.s) / ops.where(yy > 0, yy, 1.0), 1.0)
            scale = ops.where(begins, 1 / ops.maximum(ops.norm(grad), 1.0), scale)
        results = split(-direction(grad, history, scale), column)
        results = [None if g is None else r.clone() for g, r in zip(given, results)]
        old_dirs, old_stps, ro = (ops.stack(column) for column in zip(*history))
        return tree.unflatten(spec, results), ScaleByLBFGSState(
            state.step + 1, x, grad, old_dirs, old_stps, ro.to(state.ro)
        )

    def description(self) -> Description:
        return Description(NAME, {"memory_size": self.memory_size, "scale_init_precond": self.scale_init_precond})


def _pair(y: Tensor, s: Tensor, begins: Array) -> Pair:
    """Make the pair of the last step; nothing where none was taken, or the gradient did not change along it."""
    ys = ops.dot(y, s)
    there = ops.where(begins, 0.0, 1.0)
    is_flat = begins | (ys == 0)
    return Pair(y * there, s * there, ops.where(is_flat, 0.0, 1 / ops.where(is_flat, 1.0, ys)))


@factory
def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> GradientTransformation:
    r"""Multiply updates by L-BFGS's inverse Hessian.

    .. math::
        u_k \to P_k u_k, \qquad P_{k, j + 1} = V_j^\top P_{k, j} V_j + \rho_j s_j s_j^\top, \qquad
            V_j = I - \rho_j y_j s_j^\top, \qquad P_{k, k - m} = \gamma_k I

    where :math:`s_j = \theta_{j + 1} - \theta_j`, :math:`y_j = u_{j + 1} - u_j`, :math:`\rho_j = 1 / y_j^\top s_j`.

    Args:
        memory_size: :math:`m \ge 1`, how many steps are remembered.
        scale_init_precond: begin with :math:`\gamma_k = s^\top y / y^\top y` of the last step, in the first update
            with :math:`\min(1, 1 / \lVert u \rVert)`; else with 1.

    Returns:
        A transformation with state :class:`ScaleByLBFGSState`, whose vectors are all parameters in one (``n`` numbers).
        Follow it by ``scale(-1.0)`` and a line search, :func:`scale_by_zoom_linesearch`.

    Raises:
        ValueError, TypeError: ``memory_size`` is not such a count; at ``update``, no ``params``.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4. Liu and Nocedal, On the limited memory BFGS
        method for large scale optimization, 1989.

    As Optax's; its names of the state are those of :func:`~optimfx.lbfgs`, the algorithm as torch has it.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_lbfgs(), {"w": torch.tensor([3.0, 4.0])}
    >>> updates, state = tx.update(params, tx.init(params), params)  # of half the square
    >>> updates
    {'w': tensor([0.6000, 0.8000])}
    >>> params = {"w": params["w"] - updates["w"]}
    >>> tx.update(params, state, params)[0]  # to the minimum
    {'w': tensor([2.4000, 3.2000])}
    """
    check_count(AT_LEAST_ONE, memory_size=memory_size)
    update = ScaleByLBFGS(memory_size, scale_init_precond)
    return GradientTransformation(update.init, update)
