"""Steps groups of parameters, on the state that torch keeps for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.core.hyperparams import resolve
from optimfx.core.rule import Rule
from optimfx.execution import RuleUpdate
from optimfx.execution.advance import steps_of
from optimfx.execution.dispatch import FUSED
from optimfx.execution.executors.triton.runtime import build
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory import packing
from optimfx.execution.memory.guard import Guard
from optimfx.execution.memory.packing import PackedView
from optimfx.execution.plan.columns import active_slots
from optimfx.execution.plan.passes import Pass
from optimfx.execution.step import NUMBERS, step_with
from optimfx.optim.adapter.amp import UNSCALED, Scaling
from optimfx.optim.adapter.scalar_columns import ScalarColumn, to_exact_tensor
from optimfx.optim.adapter.settings import Settings

ParamState = dict[str, Any]
StateColumns = dict[str, list[Any]]


def begin_state(update: RuleUpdate, param: Tensor, *, counts: bool, on_device: bool) -> ParamState:
    """Begin the state of a parameter before its first step, under torch's keys.

    Args:
        update: the algorithm.
        param: the parameter.
        counts: whether torch keeps a step for this algorithm.
        on_device: whether it keeps it where the parameter is (capturable or fused), or on the host.
    """
    rule = update.rule
    scalars: dict[str, Any] = {"step": 0.0} if counts else {}
    scalars.update(zip(rule.carries, rule.begin(**_resolved(update, rule.begin_names))))
    state: ParamState = {name: scalar(value, param, on_device=on_device) for name, value in scalars.items()}
    slots = rule.init(param, **_resolved(update, rule.init_names))
    state.update({name: slot for name, slot in zip(update.rule.slots, slots) if slot is not None})
    return state


def scalar(value: Any, param: Tensor, *, on_device: bool) -> Tensor:
    """Make of a number what torch keeps for a parameter: in the default dtype, if that is not narrower than float32."""
    return torch.as_tensor(value, dtype=_scalar_dtype(), device=param.device if on_device else "cpu")


def _scalar_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def split_repeats(params: Sequence[Tensor], grads: Sequence[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Parameters and their gradients in turns: in each, those of one device, and none more than once."""
    times: Counter[Tensor] = Counter()
    found: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for param, grad in zip(params, grads):
        for column, one in zip(found.setdefault((times[param], param.device), ([], [])), (param, grad)):
            column.append(one)
        times[param] += 1
    return list(found.values())


def pack_states(states: Sequence[ParamState]) -> list[ParamState]:
    """Lay the small tensors of each name end to end in memory, in the states of one algorithm."""
    names = {name: None for state in states for name in state}
    columns = [[state.get(name) for state in states] for name in names]
    moved = [packing.pack_small([x if isinstance(x, Tensor) else None for x in column]) for column in columns]
    rows = zip(*[[x if new is None else new for x, new in zip(*pair)] for pair in zip(columns, moved)])
    return [{name: x for name, x in zip(names, row) if name in state} for state, row in zip(states, rows)]


def state_keys(update: RuleUpdate, *, counts: bool) -> list[str]:
    """Return what the algorithm keeps for every parameter with these hyperparameters, whatever its shape."""
    shared = ["step", *update.rule.carries] if counts else list(update.rule.carries)
    if not update.rule.elementwise:
        return ["step"] if counts else list(update.rule.slots)
    return [*shared, *active_slots(update, _resolved(update, update.rule.init_names))]


def collect_columns(update: RuleUpdate, states: Sequence[ParamState], names: Sequence[str]) -> StateColumns:
    """Collect what the states hold under these names: a value for each parameter, or ``None``.

    A rule on whole tensors, whose shapes decide what it keeps, has every slot.
    """
    every = names if update.rule.elementwise else {**dict.fromkeys(names), **dict.fromkeys(update.rule.slots)}
    return {name: [state.get(name) for state in states] for name in every}


def uninitialized(columns: StateColumns, names: Sequence[str]) -> set[int]:
    """Return the places of the parameters that lack one of these."""
    lacking = [name for name in names if type(None) in set(map(type, columns[name]))]
    return {i for name in lacking for i, value in enumerate(columns[name]) if value is None}


class Batch(NamedTuple):
    """Groups that are stepped together, as they differ in no flag."""

    owners: Sequence[Settings]
    sizes: Sequence[int]  # number of parameters of each
    params: Sequence[Tensor]
    grads: Sequence[Tensor]

    def ranges(self) -> Iterator[tuple[Settings, int, int]]:
        """Each group, and from where to where its parameters are."""
        ends = list(accumulate(self.sizes))
        return zip(self.owners, [0, *ends], ends)


class BatchPlan:
    """The plan of a batch of groups, kept while the metadata of their tensors is unchanged.

    Args:
        batch: the groups.
        names: the executors to choose from; ``None`` for the preferred ones.
        tensors: all parameters, gradients and tensors of the state, in order; ``None`` if they will not be seen again.
        traced: whether a tracer holds them.
    """

    def __init__(
        self, batch: Batch, names: tuple[str, ...] | None, tensors: Sequence[Any] | None, *, traced: bool
    ) -> None:
        first, size = batch.owners[0], len(batch.params)
        self.flags = [owner.flags for owner in batch.owners]
        self.sizes = batch.sizes
        self.names = names
        self.guard = Guard(tensors) if tensors is not None and Guard.can_see(tensors) else None
        shared = ("step", *first.update.rule.carries)
        self.lines = {} if self.guard is None else {name: PackedView(range(size + 1)) for name in shared}
        self.one_pass = Pass(stepping=True, inplace=not first.differentiable, names=names, traced=traced)
        # The common case needs a few lines only.
        self.is_simple = self.guard is not None and len(batch.owners) == 1 and not first.update.rule.carries
        self.keys: list[Any] = []
        self.hyper: dict[str, Any] | None = None
        is_short = build.serves(batch.params[0].device) or size <= 4 * len(batch.owners)
        is_free = self.guard is not None and (not names or names == FUSED)
        self.may_join = is_short and is_free and is_joinable(first.update.rule)
        self.runs: list[list[int]] | None = None
        self.leaders: list[Settings] = []

    def fits(self, batch: Batch, names: tuple[str, ...] | None, tensors: Sequence[Any]) -> bool:
        """Whether nothing has changed."""
        same = self.names == names and self.sizes == batch.sizes
        same = same and self.flags == [owner.flags for owner in batch.owners]
        return same and self.guard is not None and self.guard.admits(tensors)

    def read(self, batch: Batch) -> None:
        """Find the parameters whose hyperparameters are equal: in runs, of each of which one group is the leader."""
        if len(batch.owners) == 1:
            self.leaders = [batch.owners[0]]
            return
        keys = [owner.key for owner in batch.owners]
        if keys == self.keys:
            return
        runs: dict[Any, list[int]] = {}
        leaders: dict[Any, Settings] = {}
        for owner, begin, end in batch.ranges():
            runs.setdefault(owner.key, []).extend(range(begin, end))
            leaders.setdefault(owner.key, owner)
        self.keys = keys
        self.runs = list(runs.values()) if len(runs) > 1 else None
        self.leaders = list(leaders.values())
        self.hyper = self._joint(batch) if self.may_join and self.runs and len(self.runs) > FEW else None

    def _joint(self, batch: Batch) -> dict[str, Any] | None:
        """Join the hyperparameters of all groups, to vectors with a number for each parameter where they differ."""
        first = batch.owners[0]
        if any(owner.hyper is None or owner.likeness != first.likeness for owner in batch.owners):
            return None
        of_param = [owner.hyper for owner, size in zip(batch.owners, batch.sizes) for _ in range(size)]
        return {name: _join_values([each[name] for each in of_param if each]) for name in first.hyper or ()}


FEW = 8
"""Runs up to which each is a call of its own: they are long."""


def is_joinable(rule: Rule) -> bool:
    """Whether parameters with hyperparameters of their own may be stepped together."""
    return rule.elementwise and not rule.carries and not rule.given


def _join_values(values: Sequence[Any]) -> Any:
    """Return the value, if it is one; or a vector of the numbers."""
    first = values[0]
    if isinstance(first, tuple):
        return tuple(map(_join_values, zip(*values)))
    if type(first) not in NUMBERS or values.count(first) == len(values):
        return first
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def step(plan: BatchPlan, batch: Batch, columns: StateColumns, before: Any, *, scaling: Scaling) -> Any:
    """Step the parameters and their states in place.

    Args:
        plan: for these groups.
        batch: the groups.
        columns: what :func:`columns` found in the states.
        before: how many steps each parameter has taken: numbers, 0-d tensors, or a vector.
        scaling: of the gradients.

    Returns:
        The number of the step, where all take the same one.
    """
    params, grads = batch.params, batch.grads
    first = batch.owners[0]
    rule, differentiable = first.update.rule, first.differentiable
    # The state of a term that is switched off is ignored and left unchanged.
    slots = [columns.get(name) or [None] * len(params) for name in rule.slots]
    carried = [
        ScalarColumn(_clones(columns[name]) if differentiable else columns[name], line=plan.lines.get(name))
        for name in rule.carries
    ]
    for name, each in zip(rule.carries, carried):
        each.check(f"{name}s")
    plan.read(batch)
    hyper = first.hyper if plan.is_simple else plan.hyper
    if hyper is not None and scaling is UNSCALED and type(before) is list:
        done = before[0]
        if type(done) in NUMBERS and before.count(done) == len(before):
            one = step_with(first.update, int(done) + 1, hyper, {})
            plan.one_pass.run(Leaves(params, grads, slots), (one,), first.like if plan.is_simple else None)
            return one.count
    # torch rounds what it carries before it uses it, to the dtype in which it is kept: a loaded one may be wider.
    dtypes = [x.dtype for x in carried[0].column] if "carry_dtype" in rule.scalar_names else None
    runs, counts, leaders = _runs(before, carried, plan, dtypes)
    # A graph would bake numbers in; it calls the update, which looks them up.
    compiling = plan.one_pass.traced and torch.compiler.is_compiling()
    rounds = [{"carry_dtype": dtypes[run[0]]} if dtypes else {} for run in runs or [[0]] * len(leaders)]
    taken = [
        steps_of(leader.update, [count], None if compiling else {**_hyper(leader), **rounded})[0]
        for leader, count, rounded in zip(leaders, counts, rounds)
    ]
    leaves = Leaves(params, grads, slots)
    if plan.guard is None and rule.elementwise and not leaves.plain:
        leaves = _shards(leaves)
    if differentiable:
        # Autograd saves what the rule reads, so it must not be overwritten.
        leaves = Leaves(_clones(params), grads, [_clones(column) for column in slots])
    if scaling is UNSCALED:
        likes = [leader.like for leader in leaders]
    else:
        likes, taken = [None] * len(leaders), [scaling.wrap(each) for each in taken]
    if runs is None:
        results, new = plan.one_pass.run(leaves, (taken[0],), likes[0])
    else:
        results, new = plan.one_pass.run_each(leaves, runs, [(each,) for each in taken], likes)
    if differentiable:
        for column, values in zip((params, *slots), (results, *new)):
            _copy(column, values)
    for name, each in zip(rule.carries, carried):
        for run, done in zip([None] if runs is None else runs, taken):
            value = getattr(done.scalars, name)
            # torch rounds a new number to the default dtype, even where the loaded state is wider.
            if type(value) in NUMBERS and dtypes is None:
                value = torch.tensor(value, dtype=_scalar_dtype(), device="cpu").item()
            if differentiable:
                own = columns[name] if run is None else [columns[name][i] for i in run]
                _copy(own, list(to_exact_tensor(value).expand(len(own))))
            elif run is None:
                each.write(value)
            else:
                ScalarColumn([columns[name][i] for i in run]).write(value)
    steps = [count[0] for count in counts]
    return steps[0] if runs is None or (plan.runs is runs and steps.count(steps[0]) == len(steps)) else None


def check_shapes(update: RuleUpdate, params: Sequence[Tensor], grads: Sequence[Tensor], columns: StateColumns) -> None:
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


def _hyper(owner: Settings) -> dict[str, Any]:
    """Return the values of a group's hyperparameters, which are the same for all counts."""
    return _resolved(owner.update, owner.update.user_names) if owner.hyper is None else owner.hyper


def _resolved(update: RuleUpdate, names: Sequence[str]) -> dict[str, Any]:
    return {name: resolve(update.hyper[name], 0) for name in names}


def _shards(leaves: Leaves) -> Leaves:
    """Return what of distributed tensors is on this process: an elementwise rule needs no more, and writes in place."""
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


def _runs(
    before: Any, carried: Sequence[ScalarColumn], plan: BatchPlan, dtypes: Sequence[torch.dtype] | None
) -> tuple[list[list[int]] | None, list[tuple[Any, ...]], list[Settings]]:
    """Group the parameters in runs of equal hyperparameters, step, carried scalars and dtype of these, if it matters.

    Return for each the step, what is carried, and the settings.

    ``None`` is one run of all. Tensors are runs by themselves; a vector of steps is one run, with vectors of what is
    carried.
    """
    leaders = plan.leaders
    if isinstance(before, Tensor):
        vectors = [torch.stack(list(each.column)) if each.vector is None else each.vector for each in carried]
        return None, [(before + 1, *vectors)], leaders
    values = [before, *[each.read() for each in carried]]
    mixed = dtypes is not None and len(set(dtypes)) > 1
    if not mixed and all(type(column[0]) in NUMBERS and column.count(column[0]) == len(column) for column in values):
        first, *others = [column[0] for column in values]
        return plan.runs, [(first + 1, *others)] * len(leaders), leaders
    leader_of = {i: k for k, run in enumerate(plan.runs or [range(len(before))]) for i in run}
    every = [(leader_of[i], dtypes and dtypes[i], step + 1, *rest) for i, (step, *rest) in enumerate(zip(*values))]
    runs, places = _merge_equal([[i] for i in range(len(every))], every)
    return runs, [every[place][2:] for place in places], [leaders[every[place][0]] for place in places]


def _merge_equal(runs: list[list[int]], values: Sequence[tuple[Any, ...]]) -> tuple[list[list[int]], list[int]]:
    """Join runs of equal numbers, and return the place at which each stood first; a tensor is taken to equal none."""
    wholes: list[list[int]] = []
    places: list[int] = []
    known: dict[tuple[Any, ...], int] = {}
    for place, (run, value) in enumerate(zip(runs, values)):
        numbers = not any(isinstance(x, Tensor) for x in value)
        at = known.setdefault(value, len(wholes)) if numbers else len(wholes)
        if at == len(wholes):
            wholes.append([])
            places.append(place)
        wholes[at] += run
    return wholes, places
