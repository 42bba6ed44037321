"""The largest of a row of learning rates, each a part of the one before, at which the function has fallen enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    AtLeastOne,
    Described,
    Description,
    GradientTransformation,
    Hyper,
    NonNegative,
    Params,
    Positive,
    PyTree,
    State,
    Updates,
    check_count,
    factory,
    state_class,
    tracing,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.core.ranges import Decay
from optimfx.execution import check_state, count_from_zero
from optimfx.transforms.linesearch import as_scalar, first_scalar, line_of, scaled, with_leaves


@state_class
class ScaleByBacktrackingLinesearchState(NamedTuple):
    """The state of a backtracking line search."""

    step: Tensor  # shape=(): updates taken
    lr: Tensor  # shape=(): the learning rate that was found last
    value: Tensor  # shape=(): value of the function there; infinite before the first search
    grad: PyTree  # like the parameters: its gradient there; () unless it is stored
    num_linesearch_steps: Tensor  # shape=(): evaluations that the last search took
    decrease_error: Tensor  # shape=(): by how much the last search missed the decrease; 0 where it did not


class Search(NamedTuple):
    lr: Tensor
    value: Tensor
    error: Tensor
    steps: Tensor


@dataclass(frozen=True, eq=False)
class BacktrackingLinesearch(Described):
    """The ``update`` of :func:`scale_by_backtracking_linesearch`."""

    max_backtracking_steps: int
    hyper: dict[str, Hyper]
    store_grad: bool

    def init(self, params: Params) -> ScaleByBacktrackingLinesearchState:
        column, spec = tree.flatten(params)
        grad = tree.unflatten(spec, [p if p is None else torch.zeros_like(p) for p in column])
        one, infinite = first_scalar(params, 1.0), first_scalar(params, torch.inf)
        count = torch.zeros((), dtype=torch.int64, device=one.device)
        kept = grad if self.store_grad else ()
        return ScaleByBacktrackingLinesearchState(count_from_zero(params), one, infinite, kept, count, infinite.clone())

    def __call__(
        self,
        updates: Updates,
        state: State,
        params: Params | None = None,
        *,
        inplace: bool = False,
        value: Any = None,
        grad: Updates | None = None,
        value_fn: Callable[..., Tensor] | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByBacktrackingLinesearchState]:
        check_state(NAME, ScaleByBacktrackingLinesearchState, state)
        line, places = line_of(NAME, updates, params, {"value": value, "grad": grad, "value_fn": value_fn}, **extra)
        hyper = {name: resolve(h, as_step_number(state.step)) for name, h in self.hyper.items()}
        slope_rtol, atol, rtol, factor = (hyper[k] for k in ("slope_rtol", "atol", "rtol", "decrease_factor"))
        start = line.start

        def at(lr: Tensor, steps: int) -> Search:
            value = line.value_at(lr)
            error = value - (1 + rtol) * start.value - lr * slope_rtol * start.slope
            error = torch.where(error.isnan(), torch.inf, error).clamp(min=0)
            return Search(lr, value, error, torch.full_like(lr, steps))

        lr = ops.minimum(hyper["increase_factor"] * as_scalar(state.lr), hyper["max_lr"])
        now = at(lr, 1)
        for steps in range(2, self.max_backtracking_steps + 2):
            is_over = tracing.read_bool(now.error <= atol)
            if is_over is True:
                break
            now = ops.select_tree(is_over, now, at(factor * now.lr, steps))
        kept = state.grad
        if self.store_grad:
            kept = with_leaves(state.grad, line.trial_at(now.lr).grad, places)
        # Where every value was infinite or NaN, stay.
        lr = torch.where(now.error.isinf(), 0, now.lr)
        after = ScaleByBacktrackingLinesearchState(
            state.step + 1,
            lr.to(state.lr),
            now.value.to(state.value),
            kept,
            now.steps.to(state.num_linesearch_steps),
            now.error.to(state.decrease_error),
        )
        return scaled(updates, lr, places), after

    def description(self) -> Description:
        return Description(
            NAME, {"max_backtracking_steps": self.max_backtracking_steps, **self.hyper, "store_grad": self.store_grad}
        )


NAME = "scale_by_backtracking_linesearch"


@factory
def scale_by_backtracking_linesearch(
    max_backtracking_steps: int,
    slope_rtol: NonNegative = 1e-4,
    decrease_factor: Decay = 0.8,
    increase_factor: AtLeastOne = 1.5,
    max_lr: Positive = 1.0,
    atol: NonNegative = 0.0,
    rtol: NonNegative = 0.0,
    store_grad: bool = False,
) -> GradientTransformation:
    r"""Scale updates by the first learning rate at which the function falls enough (Armijo's condition).

    .. math::
        f(\theta + \eta u) \le (1 + \delta) f(\theta) + \eta c \langle u, \nabla f(\theta) \rangle + \epsilon

    :math:`\eta` begins ``increase_factor`` times as large as the last one, at most ``max_lr``, and is multiplied by
    ``decrease_factor`` until this holds. Where no value was finite, it is 0.

    Its update takes the function: ``update(updates, state, params, value=value, grad=grad, value_fn=f)``, with
    ``value = f(params)`` and its gradient. The updates before it must lead downwards, as those of ``sgd`` do. Further
    arguments of ``update`` that ``f`` names, such as a batch, are given to it.

    Args:
        max_backtracking_steps: how often :math:`\eta` is made smaller, at most; at least 1.
        slope_rtol: :math:`c \ge 0`.
        decrease_factor: in [0, 1).
        increase_factor: at least 1.
        max_lr: greatest :math:`\eta`, above 0.
        atol: :math:`\epsilon \ge 0`.
        rtol: :math:`\delta \ge 0`.
        store_grad: evaluate the gradient where the search ends, and keep it for :func:`value_and_grad_from_state`.

    Returns:
        A transformation with state :class:`ScaleByBacktrackingLinesearchState`.

    Raises:
        ValueError, TypeError: an argument is out of range; at ``update``, no ``params``, ``value``, ``grad`` or
            ``value_fn``, or a function that does not return a 0-d tensor.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithm 3.1. Vaswani et al., Painless Stochastic Gradient,
        2019.

    As Optax's, whose ``learning_rate`` and ``max_learning_rate`` are ``lr`` and ``max_lr``. Under ``torch.compile`` and
    ``torch.func`` transforms all ``max_backtracking_steps + 1`` values are computed.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(1.0), fx.scale_by_backtracking_linesearch(15))
    >>> def f(params):
    ...     return (params["w"] ** 2).sum()
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> grads = {"w": 2 * params["w"]}
    >>> fx.step(tx, grads, tx.init(params), params, value=f(params), grad=grads, value_fn=f)[0]
    {'w': tensor([-0.6000, -1.2000])}
    """
    check_count(AT_LEAST_ONE, max_backtracking_steps=max_backtracking_steps)
    hyper = {"slope_rtol": slope_rtol, "decrease_factor": decrease_factor, "increase_factor": increase_factor}
    hyper |= {"max_lr": max_lr, "atol": atol, "rtol": rtol}
    update = BacktrackingLinesearch(max_backtracking_steps, hyper, store_grad)
    return GradientTransformation(update.init, update)
