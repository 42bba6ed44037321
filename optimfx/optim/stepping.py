"""One step of a group of parameters, on the state that torch keeps for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.base import RuleUpdate
from optimfx.execution import flat
from optimfx.execution.flat import Line
from optimfx.execution.columns import needed
from optimfx.execution.counts import joined
from optimfx.execution.hyper import NUMBERS, resolve
from optimfx.execution.leaves import Leaves
from optimfx.execution.planning import Guard, Pass
from optimfx.execution.run import steps_of
from optimfx.optim.amp import UNSCALED, Scaling
from optimfx.optim.live import Settings
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
    shared = ["step", *update.rule.carried] if counts else list(update.rule.carried)
    if not update.rule.elementwise:
        return ["step"] if counts else list(update.rule.slots)
    return [*shared, *needed(update, _resolved(update, update.rule.init_names))]


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


class GroupPlan:
    """How a group is stepped, for as long as its tensors are as they are now, but for their values.

    Args:
        settings: of the group.
        names: the executors to choose from; ``None`` for the preferred ones.
        tensors: all parameters, gradients and tensors of the state, in order; ``None`` if they are not to be seen again.
        size: how many parameters.
    """

    def __init__(
        self, settings: Settings, names: tuple[str, ...] | None, tensors: Sequence[Any] | None, size: int
    ) -> None:
        shared = ("step", *settings.update.rule.carried)
        self.flags = settings.flags
        self.names = names
        self.guard = Guard(tensors) if tensors is not None and Guard.can_see(tensors) else None
        self.lines = {} if self.guard is None else {name: Line(range(size + 1)) for name in shared}
        self.one_pass = Pass(stepping=True, inplace=not settings.differentiable, names=names)

    def fits(self, settings: Settings, names: tuple[str, ...] | None, tensors: Sequence[Any]) -> bool:
        """Whether nothing has changed."""
        same = self.flags is settings.flags and self.names == names
        return same and self.guard is not None and self.guard.admits(tensors)


def step(
    plan: GroupPlan,
    settings: Settings,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    columns: Columns,
    before: Any,
    *,
    scaling: Scaling,
) -> tuple[list[list[int]] | None, list[tuple[Any, ...]]]:
    """Step the parameters and their states in place.

    Args:
        plan: for these parameters.
        settings: of their group.
        params: the parameters, with their gradients and states.
        grads: the gradients.
        columns: what :func:`columns` found in the states.
        before: how many steps each parameter has taken: numbers, 0-d tensors, or a vector.
        scaling: of the gradients.

    Returns:
        The parameters in runs, as :func:`_runs` does.
    """
    update, differentiable = settings.update, settings.differentiable
    rule = update.rule
    # What is left in a state of a term that was switched off is not among the columns, and stays as it is.
    slots = [columns.get(name) or [None] * len(params) for name in rule.slots]
    carried = [
        Scalars(_clones(columns[name]) if differentiable else columns[name], line=plan.lines.get(name))
        for name in rule.carried
    ]
    for name, each in zip(rule.carried, carried):
        each.check(f"{name}s")
    runs, counts = _runs(before, carried)
    # Of numbers, a graph would make constants; it asks the update, which looks them up.
    hyper = None if torch.compiler.is_compiling() else settings.hyper
    taken = steps_of(update, grads, counts, hyper)
    leaves = Leaves(params, grads, slots)
    if plan.guard is None and rule.elementwise and not leaves.plain:
        leaves = _shards(leaves)
    if differentiable:
        # Autograd keeps what the rule reads, and that must not be written over.
        leaves = Leaves(_clones(params), grads, [_clones(column) for column in slots])
    like = settings.like if scaling is UNSCALED else None
    results, new = plan.one_pass.run(
        leaves, runs, [(each if scaling is UNSCALED else scaling.around(each),) for each in taken], like
    )
    if differentiable:
        for column, values in zip((params, *slots), (results, *new)):
            _copy(column, values)
    for name, each in zip(rule.carried, carried):
        for run, done in zip(runs or [None], taken):
            value = getattr(done.scalars, name)
            if differentiable:
                own = columns[name] if run is None else [columns[name][i] for i in run]
                _copy(own, list(exact(value).expand(len(own))))
            elif run is None:
                each.write(value)
            else:
                Scalars([columns[name][i] for i in run]).write(value)
    return runs, counts


def check_shapes(update: RuleUpdate, params: Sequence[Tensor], grads: Sequence[Tensor], columns: Columns) -> None:
    """Refuse the state of another parameter."""
    if not update.rule.elementwise:
        return
    for name in update.rule.slots:
        for param, grad, slot in zip(params, grads, columns.get(name) or ()):
            if slot is not None and slot.shape != grad.shape:
                raise RuntimeError(
                    f"{name} of a parameter of shape {tuple(param.shape)} has shape {tuple(slot.shape)}: the state is "
                    f"another parameter's. Load a checkpoint of this model, or begin anew with optimizer.state.clear()."
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


def _runs(before: Any, carried: Sequence[Scalars]) -> tuple[list[list[int]] | None, list[tuple[Any, ...]]]:
    """The parameters in runs of equal step and carried scalars, and what these are; ``None`` for one run of all.

    Tensors are runs by themselves; a vector of steps is one run, with vectors of what is carried.
    """
    if isinstance(before, Tensor):
        vectors = [torch.stack(list(each.column)) if each.vector is None else each.vector for each in carried]
        return None, [(before + 1, *vectors)]
    values = [before, *[each.read() for each in carried]]
    first, *others = [column[0] for column in values]
    if all(type(column[0]) in NUMBERS and column.count(column[0]) == len(column) for column in values):
        return None, [(first + 1, *others)]
    every = [(step + 1, *rest) for step, *rest in zip(*values)]
    runs, places = joined([[i] for i in range(len(every))], every)
    return runs, [every[place] for place in places]
