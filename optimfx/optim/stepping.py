"""One step of a group of parameters, on the state that torch keeps for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from optimfx.base import RuleUpdate
from optimfx.execution import flat
from optimfx.execution.columns import needed
from optimfx.execution.counts import joined
from optimfx.execution.hyper import resolve
from optimfx.execution.known import recognized
from optimfx.execution.leaves import Leaves, misshapen
from optimfx.execution.run import execute, steps_of
from optimfx.optim.amp import Scaling
from optimfx.optim.scalars import Scalars, exact

ParamState = dict[str, Any]
Columns = dict[str, list[Any]]


def begin(update: RuleUpdate, param: Tensor, *, counts: bool, on_device: bool) -> ParamState:
    """The state of a parameter before its first step, under torch's keys.

    Args:
        update: the algorithm.
        param: the parameter.
        counts: whether torch keeps a step for this algorithm.
        on_device: whether it keeps it where the parameter is (capturable or fused), or on the host.
    """
    rule = update.rule
    scalars: dict[str, Any] = {"step": 0.0} if counts else {}
    scalars.update(zip(rule.carried, rule.begin(**_resolved(update, rule.begin_names))))
    state: ParamState = {name: scalar(value, param, on_device=on_device) for name, value in scalars.items()}
    slots = rule.init(param, **_resolved(update, rule.init_names))
    state.update({name: slot for name, slot in zip(update.rule.slots, slots) if slot is not None})
    return state


def scalar(value: Any, param: Tensor, *, on_device: bool) -> Tensor:
    """A number as torch keeps it for a parameter: in the default dtype, if that is not narrower than float32."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=param.device if on_device else "cpu")


def turns(params: Sequence[Tensor], grads: Sequence[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Parameters and their gradients in turns: in each, those of one device, and none more than once."""
    times: Counter[Tensor] = Counter()
    found: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for param, grad in zip(params, grads):
        for column, one in zip(found.setdefault((times[param], param.device), ([], [])), (param, grad)):
            column.append(one)
        times[param] += 1
    return list(found.values())


def together(states: Sequence[ParamState]) -> list[ParamState]:
    """The states of one algorithm, with the small tensors of each name end to end in memory."""
    names = {name: None for state in states for name in state}
    columns = [[state.get(name) for state in states] for name in names]
    moved = [flat.together([x if isinstance(x, Tensor) else None for x in column]) for column in columns]
    rows = zip(*[[x if new is None else new for x, new in zip(*pair)] for pair in zip(columns, moved)])
    return [{name: x for name, x in zip(names, row) if name in state} for state, row in zip(states, rows)]


def kept(update: RuleUpdate, *, counts: bool) -> list[str]:
    """What the algorithm keeps for every parameter with these hyperparameters, as far as that is known beforehand."""
    if not update.rule.elementwise:
        return ["step"] if counts else list(update.rule.slots)
    counted = ["step", *update.rule.carried] if counts else list(update.rule.carried)
    return [*counted, *needed(update, _resolved(update, update.rule.init_names))]


def columns(update: RuleUpdate, states: Sequence[ParamState], names: Sequence[str]) -> Columns:
    """What the states hold under these names: a value for each parameter, or ``None``.

    A rule on whole tensors, whose shapes decide what it keeps, has every slot.
    """
    every = names if update.rule.elementwise else {**dict.fromkeys(names), **dict.fromkeys(update.rule.slots)}
    return {name: [state.get(name) for state in states] for name in every}


def unbegun(columns: Columns, names: Sequence[str]) -> set[int]:
    """The places of the parameters that lack one of these."""
    lacking = [name for name in names if type(None) in set(map(type, columns[name]))]
    return {i for name in lacking for i, value in enumerate(columns[name]) if value is None}


def step(
    update: RuleUpdate,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    columns: Columns,
    steps: Any,
    *,
    scaling: Scaling,
    executor: AbstractContextManager[None],
    differentiable: bool,
) -> None:
    """Step the parameters and their states in place.

    Args:
        update: the algorithm.
        params: the parameters, with their gradients and states.
        grads: the gradients.
        columns: what :func:`columns` found in the states.
        steps: the number of each parameter's step, from 1: numbers, 0-d tensors, or a vector.
        scaling: of the gradients.
        executor: the one to run, by :func:`optimfx.execution.use`.
        differentiable: leave the step on autograd's tape.
    """
    rule = update.rule
    # What is left in a state of a term that was switched off is not among the columns, and stays as it is.
    slots = [columns.get(name) or [None] * len(params) for name in rule.slots]
    carried = [Scalars(_clones(columns[name]) if differentiable else columns[name]) for name in rule.carried]
    for name, each in zip(rule.carried, carried):
        each.check(f"{name}s")
    runs, counts = _runs(steps, carried)
    taken = steps_of(update, grads, counts)
    leaves = Leaves(params, grads, slots)
    if rule.elementwise and not leaves.plain:
        leaves = _shards(leaves)
    leaves = recognized(leaves)
    if rule.elementwise:
        _check_shapes(rule.slots, leaves)
    if differentiable:
        # Autograd keeps what the rule reads, and that must not be written over.
        leaves = Leaves(_clones(params), grads, [_clones(column) for column in slots])
    with executor:
        alone = [(scaling.around(each),) for each in taken]
        results, new = execute(leaves, runs, alone, stepping=True, inplace=not differentiable)
    if differentiable:
        for column, values in zip((params, *slots), (results, *new)):
            _copy(column, values)
    for run, done in zip(runs, taken):
        for name, each in zip(rule.carried, carried):
            value = exact(getattr(done.scalars, name))
            own = [columns[name][i] for i in run]
            if differentiable:
                _copy(own, list(value.expand(len(run))))
            elif len(run) == len(params):
                each.write(value)
            else:
                Scalars(own).write(value)


def _check_shapes(names: Sequence[str], leaves: Leaves) -> None:
    for k, i in leaves.known(misshapen).items():
        raise RuntimeError(
            f"{names[k]} of a parameter of shape {tuple(leaves.params[i].shape)} has shape "
            f"{tuple(leaves.slots[k][i].shape)}: the state is another parameter's. Load a checkpoint of this "
            f"model, or begin anew with optimizer.state.clear()."
        )


def _resolved(update: RuleUpdate, names: Sequence[str]) -> dict[str, Any]:
    return {name: resolve(update.hyper[name], 0) for name in names}


def _shards(leaves: Leaves) -> Leaves:
    """What of distributed tensors is on this process: all that an elementwise rule needs, and written in place."""
    grads = []
    for param, grad in zip(leaves.params, leaves.grads):
        if hasattr(grad, "redistribute") and grad.placements != param.placements:
            grad = grad.redistribute(placements=param.placements)
        grads.append(grad)
    return Leaves(_local(leaves.params), _local(grads), [_local(column) for column in leaves.slots])


def _local(tensors: Sequence[Any]) -> list[Any]:
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def _clones(tensors: Sequence[Any]) -> list[Any]:
    return [None if t is None else t.clone() for t in tensors]


def _copy(old: Sequence[Any], new: Sequence[Any]) -> None:
    """On autograd's tape, which does not know the list form."""
    for mine, value in zip(old, new):
        if mine is not None:
            mine.copy_(value)


def _runs(steps: Any, carried: Sequence[Scalars]) -> tuple[list[list[int]], list[tuple[Any, ...]]]:
    """The parameters in runs of equal step and carried scalars, and what these are; tensors are runs by themselves.

    A vector of steps is one run, with vectors of what is carried.
    """
    everyone = list(range(len(steps)))
    if isinstance(steps, Tensor):
        vectors = [torch.stack(list(each.column)) if each.vector is None else each.vector for each in carried]
        return [everyone], [(steps, *vectors)]
    if not (carried or isinstance(steps[0], Tensor)) and len(set(steps)) == 1:
        return [everyone], [(steps[0],)]
    every = list(zip(steps, *[each.read() for each in carried]))
    runs, places = joined([[i] for i in everyone], every)
    return runs, [every[place] for place in places]
