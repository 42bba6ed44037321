"""Advances columns of leaves by one step: their counts and carried scalars, and by a pass the leaves themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from optimfx.core import tracing
from optimfx.core.hyperparams import as_step_number
from optimfx.core.link import Link
from optimfx.core.types import Array, Column, Key, Value
from optimfx.execution.dispatch import dispatch_totals
from optimfx.execution.executors.custom_op.scalars import join_scalars, split_scalars
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory.dtypes import compute_dtype, load
from optimfx.execution.memory.packing import PackedView
from optimfx.execution.plan.columns import Columns
from optimfx.execution.plan.passes import Pass
from optimfx.execution.step import NUMBERS, Step, probe_step, scalars_at, step_at, step_with, tensor_like

Runs: TypeAlias = "Sequence[Sequence[int]] | None"
"""The places of leaves that share everything; ``None`` for one run of all leaves."""


def advance(
    links: Sequence[Link],
    columns: Columns,
    one_pass: Pass,
    *,
    has_params: bool,
    inplace: bool,
    lines: Sequence[PackedView | None],
    given: Mapping[str, Value],
) -> tuple[Column, list[list[Column]]]:
    """Step every leaf: return the results, and the columns of each link's new state.

    Args:
        links: rules that follow one another.
        columns: the leaves, each of which has a gradient, and their states.
        one_pass: how they are run.
        has_params: whether there are parameters.
        inplace: whether results and states may be written where they come from.
        lines: for the shared columns that are numbers on the host, what finds them end to end.
        given: what was measured of all leaves, and the arguments of the update that a rule takes.
    """
    leaves = columns.leaves
    traced = one_pass.traced
    every = [column for own in columns.shared for column in own]
    vectors: Sequence[Tensor | None] = [None] * len(every)
    if lines:
        vectors = [None if line is None else line.through(column) for line, column in zip(lines, every)]
    runs, counts = _next_counts(columns, every, vectors, traced=traced)
    of_link: Sequence[Sequence[tuple[Value, ...]]] = list(zip(*counts))
    if traced:
        of_link = [[_move_vectors(leaves.grads[0], each) for each in own] for own in of_link]
    of_run = list(zip(*[steps_of(link, each, given=given) for link, each in zip(links, of_link)]))
    if not has_params or columns.has_sparse:
        for run, steps in zip([range(len(leaves.grads))] if runs is None else runs, of_run):
            for link, step in zip(links, steps):
                check_leaves(link, step.scalars, columns, run, has_params=has_params)
    # With constant hyperparameters, only the count changes from step to step.
    like = tuple(links) if all([link.varies_by_count for link in links]) else None
    if runs is None:
        results, slots = one_pass.run(leaves, of_run[0], like)
    else:
        results, slots = one_pass.run_each(leaves, runs, of_run, [like] * len(of_run))
    shared = []
    left = iter(vectors)
    for k, (link, own) in enumerate(zip(links, columns.shared)):
        stored: list[Column] = []
        for j, before in enumerate(own):
            values = [
                getattr(steps[k].scalars, link.rule.carries[j - 1]) if j else each[k][0]
                for each, steps in zip(counts, of_run)
            ]
            stored.append(_store_column(before, runs, values, next(left), inplace=inplace, traced=traced))
        shared.append(stored)
    return results, split_by_link(links, shared, slots)


def _move_vectors(grad: Tensor, numbers: Sequence[Value]) -> tuple[Value, ...]:
    """Move the vectors that leaves share to their device: there, torch computes with a 0-d tensor of the host alone."""
    return tuple([x.to(grad.device) if isinstance(x, Tensor) and x.dim() else x for x in numbers])


def split_by_link(links: Sequence[Link], shared: Sequence[Column], slots: Column) -> list[list[Column]]:
    """Split columns by link: what its leaves share, then its slots."""
    left = iter(slots)
    return [[*own, *[next(left) for _ in link.rule.slots]] for link, own in zip(links, shared)]


def steps_of(
    link: Link,
    counts: Sequence[tuple[Value, ...]],
    hyper: dict[str, Value] | None = None,
    given: Mapping[str, Value] = MappingProxyType({}),
) -> list[Step]:
    """Make the steps to these counts, each with the scalars that are carried to it.

    ``hyper`` are the values of the hyperparameters, where they are known and do not depend on the count.
    """
    rule = link.rule
    hyper = link.constants if hyper is None else hyper
    steps = []
    for each in counts:
        taken, *carried = [x if type(x) in NUMBERS else tracing.read_number(x) for x in each] or (None,)
        also = {**dict(zip(rule.carries, carried)), **{name: given[name] for name in rule.given if name in given}}
        if hyper is None:
            steps.append(step_at(link, taken, **also))
        else:
            steps.append(step_with(link, None if taken is None else as_step_number(taken), hyper, also))
    return steps


def measure(link: Link, columns: Columns, *, has_params: bool, traced: bool) -> list[tuple[Tensor, ...]]:
    """Return what the link measures of each leaf, or of several together, given what it shares, and its slots."""
    rule = link.rule
    params, grads, slots = columns.leaves
    shared = columns.shared[:1]
    if not has_params or columns.has_sparse:
        check_leaves(link, probe_step(link).scalars, columns, range(len(grads)), has_params=has_params)
    runs, counts = _next_counts(columns._replace(shared=shared), shared[0], [None] * len(shared[0]), traced=traced)
    measured = []
    for run, (each,) in zip([range(len(grads))] if runs is None else runs, counts):
        (step,) = steps_of(link, [each])
        known = {"step": step.count, **step.hyper}
        together = Leaves(params, grads, slots[: len(rule.slots)]).take(run)
        totals = dispatch_totals(link.name, rule, together, [known[name] for name in rule.measure_names])
        if totals is not None:
            measured.append(tuple(totals.unbind()))
            continue
        for i in run:
            tensors = [params[i], grads[i], *[column[i] for column in slots[: len(rule.slots)]]]
            dtype = compute_dtype([t for t in tensors if t is not None])
            hyper = [scalars_at(known[name], i) for name in rule.measure_names]
            measured.append(rule.measure(*[None if t is None else load(t, dtype) for t in tensors], *hyper))
    return measured


def check_leaves(link: Link, scalars: Value, columns: Columns, rows: Sequence[int], *, has_params: bool) -> None:
    """Refuse what the link cannot do with these leaves.

    That is to step without parameters that it reads, and to step sparse gradients where elements without one would
    move, or in a form that has no elements.
    """
    if not has_params and link.rule.reads_param(scalars):
        raise ValueError(f"{link.name} needs the parameters here: call update(updates, state, params).")
    for i in rows:
        grad = columns.leaves.grads[i]
        if grad is None or grad.layout is torch.strided:
            continue
        if grad.layout is not torch.sparse_coo or grad.sparse_dim() == 0:
            raise ValueError(
                f"{columns.path(i, 'updates')} has layout {grad.layout} and {grad.sparse_dim()} sparse dimensions; "
                f"give it as torch.sparse_coo with at least one, or dense."
            )
        if not link.rule.sparse(scalars):
            raise ValueError(
                f"{columns.path(i, 'updates')} is sparse, and {link.name} with these hyperparameters also moves "
                f"elements that have no gradient. Use sparse_adam, sgd without momentum and decay, or adagrad without "
                f"decay; or make the gradient dense with to_dense()."
            )


def _next_counts(
    columns: Columns, every: Sequence[Column], vectors: Sequence[Tensor | None], *, traced: bool
) -> tuple[Runs, list[list[tuple[Value, ...]]]]:
    """Group the leaves in runs that share everything; return for each, by link, the next count and what it carries.

    Where counts cannot be read, all leaves are one run that shares vectors.
    """
    shared = columns.shared
    if traced:
        runs: list[list[int]] = []
        for i in range(len(columns.leaves.grads)):
            if runs and all(tracing.is_same_tensor(column[i], column[runs[-1][0]]) for column in every):
                runs[-1].append(i)
            else:
                runs.append([i])
        rows = [[column[run[0]] for column in every] for run in runs]
    else:
        values = [_read_column(column, vector) for column, vector in zip(every, vectors)]
        if all(map(_is_uniform, values)):
            return None, [_shared_by_link(shared, [column[0] for column in values])]
        groups: dict[Key, list[int]] = {}
        each = list(zip(*values))
        for i, row in enumerate(each):
            # Tensors are compared by identity.
            groups.setdefault(tuple([id(x) if isinstance(x, Tensor) else x for x in row]), []).append(i)
        rows = [list(each[group[0]]) for group in groups.values()]
        runs = list(groups.values())
    if len(runs) == 1:
        return None, [_shared_by_link(shared, rows[0])]
    if isinstance(rows[0][0], Tensor):
        return None, [_shared_by_link(shared, [join_scalars(column) for column in every])]
    return runs, [_shared_by_link(shared, row) for row in rows]


def _shared_by_link(shared: Sequence[Column], row: Column) -> list[tuple[Value, ...]]:
    """Return what a leaf shares, by link, with the count of the next step."""
    left = iter(row)
    each = [[next(left) for _ in own] for own in shared]
    return [(own[0] + 1, *own[1:]) if own else () for own in each]


def _read_column(column: Column, vector: Tensor | None) -> Column:
    """Read the numbers in a shared column; leave what is on another device, or differentiated, a tensor."""
    if vector is not None:
        values: list[Array] = vector.tolist()
        return values
    first = column[0]
    if all([x is first for x in column]):
        return [tracing.read_number(first)] * len(column)
    return tracing.read_numbers(column)


def _is_uniform(values: Column) -> bool:
    """Whether all are one number, or one tensor."""
    first = values[0]
    if type(first) in NUMBERS:
        return not any([isinstance(x, Tensor) for x in values]) and values.count(first) == len(values)
    return all([x is first for x in values])


def _store_column(
    before: Column,
    runs: Runs,
    values: Column,
    vector: Tensor | None,
    *,
    inplace: bool,
    traced: bool,
) -> Column:
    """Store the new values of each run in a shared column, every leaf with a tensor of its own.

    It is written in place only where each leaf has one already: what several hold may be held elsewhere too.
    """
    if vector is not None and inplace and runs is None:
        value = values[0]
        if not isinstance(value, Tensor) and _dtype_for(value, vector) is vector.dtype:
            vector.fill_(value)
            return before
    if runs is None and isinstance(values[0], Tensor) and values[0].dim() > before[0].dim():
        each = split_scalars(values[0], before)
        if traced or not inplace:
            return each
        torch._foreach_copy_(list(before), list(each))
        return before
    runs = [range(len(before))] if runs is None else runs
    if traced:
        return _store_traced_column(before, runs, values)
    after: list[Array] = list(before)
    has_own = len(set(map(id, before))) == len(before)
    for run, value in zip(runs, values):
        old = before[run[0]]
        dtype = _dtype_for(value, old)
        if inplace and has_own and dtype is old.dtype:
            for t in [before[i] for i in run]:
                t.copy_(value) if isinstance(value, Tensor) else t.fill_(value)
        else:
            for i, new in zip(run, _copies(value, len(run), dtype, old.device)):
                after[i] = new
    return after


def _copies(value: Value, number: int, dtype: torch.dtype, device: torch.device) -> Sequence[Tensor]:
    """Make so many 0-d tensors of a number, or of a tensor's value."""
    if isinstance(value, Tensor):
        return [value.to(device, dtype, copy=True) for _ in range(number)]
    return torch.full((number,), value, dtype=dtype, device=device).unbind()


def _store_traced_column(before: Column, runs: Sequence[Sequence[int]], values: Column) -> Column:
    """Store one tensor for each run: a graph has few nodes then, and nothing is written in place."""
    after = list(before)
    for run, value in zip(runs, values):
        old = before[run[0]]
        fresh = isinstance(value, Tensor) and value is not old and value.dtype == old.dtype
        new = value if fresh else tensor_like(value, old)
        for i in run:
            after[i] = new
    return after


EXACT = {torch.float32: 2**24, torch.float64: 2**53}
"""The number up to which the dtype has every one."""


def _dtype_for(value: Value, old: Tensor) -> torch.dtype:
    """Choose the dtype of a scalar's new value: its own, or a wider one where that cannot count so far."""
    if isinstance(value, Tensor) or value <= EXACT.get(old.dtype, 0):
        return old.dtype
    return torch.float64 if old.dtype is torch.float64 or value > EXACT[torch.float32] else torch.float32
