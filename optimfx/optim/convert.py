"""From a live optimizer to a pure transformation on the same trajectory."""

from __future__ import annotations

from typing import Any

import optree
import torch
from torch import Tensor

from optimfx import optim
from optimfx.combinators.partition import PartitionState, partition
from optimfx.core import GradientTransformation, State
from optimfx.execution import RuleUpdate
from optimfx.execution.plan.columns import ABSENT
from optimfx.optim.adapter import group_step
from optimfx.optim.adapter.settings import Group
from optimfx.optim.classes.lbfgs import LBFGS
from optimfx.optim.transform_optimizer import TransformOptimizer


def as_transformation(optimizer: torch.optim.Optimizer) -> tuple[GradientTransformation, State]:
    """Convert an optimizer to the transformation that it is, and its state now, for the list of its parameters.

    Args:
        optimizer: one of torch.optim or of optimfx.optim, at any time of its life. It is left as it is, and nothing is
            shared with it.

    Returns:
        ``(tx, state)``: stepping ``[p for group in optimizer.param_groups for p in group["params"]]`` with them goes on
        as the optimizer would. Several groups make a partition, labelled by their numbers.

    Raises:
        TypeError: there is no pure algorithm of this class's name, or a TransformOptimizer has several groups.

    >>> import torch, optimfx as fx
    >>> p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> p.grad = torch.tensor([0.5, 3.0])
    >>> optimizer = torch.optim.Adam([p], lr=0.1)
    >>> optimizer.step()
    >>> tx, state = fx.optim.as_transformation(optimizer)
    >>> params, state = fx.step(tx, [p.grad], state, [p.detach()])
    >>> optimizer.step()
    >>> torch.equal(params[0], p)
    True
    """
    with torch.no_grad():
        parts = [_part(optimizer, index, group) for index, group in enumerate(optimizer.param_groups)]
    if len(parts) == 1:
        return parts[0]
    if isinstance(optimizer, TransformOptimizer):
        raise TypeError(
            "each group of a TransformOptimizer is a tree by itself: no single transformation describes them."
        )
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    labels = [index for index, size in enumerate(sizes) for _ in range(size)]
    tx = partition({index: tx for index, (tx, _) in enumerate(parts)}, labels)
    places = [[i for i, label in enumerate(labels) if label == index] for index in range(len(parts))]
    states = {index: _scatter_state(state, places[index], len(labels)) for index, (_, state) in enumerate(parts)}
    return tx, PartitionState(states)


def _part(optimizer: torch.optim.Optimizer, index: int, group: Group) -> tuple[GradientTransformation, State]:
    """Convert one group to its transformation and state."""
    if isinstance(optimizer, TransformOptimizer):
        return optimizer.tx, _copy(optimizer.state_of(index))
    ours = getattr(optim, type(optimizer).__name__, None)
    if ours is None or not hasattr(ours, "factory"):
        raise TypeError(
            f"there is no pure algorithm for a {type(optimizer).__name__}; give an optimizer of torch.optim or "
            f"optimfx.optim."
        )
    tx = ours.factory(**{name: _copy(group[name]) for name in ours.algorithm.present_in(group)})
    params = group["params"]
    if ours is LBFGS:
        return tx, LBFGS.unpacked(tx.init(params), _copy(optimizer.state.get(params[0], {})))
    return tx, _state(tx.update, params, [optimizer.state.get(p, {}) for p in params], ours.counts)


def _state(update: RuleUpdate, params: list[Tensor], kept: list[dict[str, Any]], counts: bool) -> State:
    """Make the pure state of a group's parameters from what torch keeps for each."""
    names = update.state_type._fields
    columns: dict[str, list[Any]] = {name: [] for name in names}
    shared: dict[tuple[str, float], Tensor] = {}
    for param, state in zip(params, kept):
        first = group_step.begin_state(update, param, counts=True, on_device=False)
        # Without a count in torch, 0 or 1 is enough: the algorithm only reads whether there was a step.
        now = {**first, **state} if counts else {**first, **state, "step": float(bool(state))}
        for name in names[: update.num_shared_fields]:
            # Leaves that were stepped together share one count.
            dtype = first["step"].dtype if name == "step" else torch.float64
            value = torch.tensor(float(now[name]), dtype=dtype, device="cpu")
            columns[name].append(shared.setdefault((name, value.item()), value))
        for name in names[update.num_shared_fields :]:
            columns[name].append(ABSENT if now.get(name) is None else _copy(now[name]))
    trees = [column if any(slot is not ABSENT for slot in column) else ABSENT for column in columns.values()]
    return update.state_type(*trees)


def _scatter_state(state: Any, places: list[int], size: int) -> Any:
    """Spread a state for a list of parameters to their places in a longer one."""

    def spread(column: list[Any]) -> list[Any]:
        whole: list[Any] = [ABSENT] * size
        for place, leaf in zip(places, column):
            whole[place] = leaf
        return whole

    return type(state)(*[spread(column) if isinstance(column, list) else column for column in state])


def _copy(value: Any) -> Any:
    return optree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, value, none_is_leaf=True)
