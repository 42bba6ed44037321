"""Explains which executor each group of leaves gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimfx.core import Described, ExecutionRow, Locality, tree
from optimfx.core.lowering import Call
from optimfx.core.reprs import name_of
from optimfx.core.types import Array, Column, Key, PyTree
from optimfx.execution.dispatch import has_kernels, select
from optimfx.execution.leaves import Leaves
from optimfx.execution.plan.stages import stages_of
from optimfx.execution.step import Step, fill_param_dtype, probe_step


class Explanation(list[ExecutionRow]):
    """The rows, printed as a table."""

    def __repr__(self) -> str:
        rows = [tuple(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in self]
        cells = [ExecutionRow._fields, *rows]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in cells)


def explain_function(update: Any, params: PyTree) -> list[ExecutionRow]:
    """Explain a function of whole trees, which runs as its author wrote it, in one row."""
    name = update.description().name if isinstance(update, Described) else name_of(update)
    groups = _groups(tree.flatten(params)[0])
    return [_row(name, "as given", group, "a function of the whole tree") for group in groups]


def explain_rules(calls: Sequence[Call], params: PyTree) -> list[ExecutionRow]:
    """Explain rules in turn: for each pass the groups of leaves, and the choice for each."""
    leaves = tree.flatten(params)[0]
    rows = []
    for stage in stages_of(calls, leaves, measures_leaves=has_kernels(leaves)).stages:
        for segment in stage:
            links: list[Array] = [calls[k].update for k in segment.order]
            steps = tuple([probe_step(link) for link in links])
            name = " + ".join(step.name for step in steps)
            for group in _groups([leaves[i] for i in segment.places]):
                executor, reason = select(
                    fill_param_dtype(steps, group.params[0]), group, stepping=segment.ends, inplace=True
                )
                if executor.name == "triton" and any(map(_measures_norms, steps)):
                    reason += "; before it, kernels that measure norms"
                rows.append(_row(name, executor.name, group, reason))
    return rows


def _measures_norms(step: Step) -> bool:
    return step.rule.locality is Locality.NORM or step.rule.needs_global_norm


def _groups(params: Column) -> list[Leaves]:
    """Group the parameters by device and dtype; they stand for their gradients too."""
    groups: dict[Key, list[Array]] = {}
    for leaf in params:
        if leaf is not None:
            # A step in place is not differentiated, even if the parameters require gradients.
            groups.setdefault((leaf.device, leaf.dtype), []).append(leaf.detach())
    return [Leaves(group, group, []) for group in groups.values()]


def _row(transform: str, executor: str, group: Leaves, reason: str) -> ExecutionRow:
    first = group.grads[0]
    dtype = str(first.dtype).removeprefix("torch.")
    return ExecutionRow(
        transform, executor, len(group.grads), sum(g.numel() for g in group.grads), dtype, str(first.device), reason
    )
