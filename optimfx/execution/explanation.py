"""Which executor each group of leaves gets, for a person to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimfx.core import GradientTransformation, Locality, Row, tree
from optimfx.core.link import Link
from optimfx.core.reprs import name_of
from optimfx.core.tree import PyTree
from optimfx.execution.dispatch import select
from optimfx.execution.leaves import Leaves
from optimfx.execution.step import Step, first_step, typed


class Explanation(list[Row]):
    """The rows, printed as a table."""

    def __repr__(self) -> str:
        cells = [Row._fields, *[tuple(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in self]]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in cells)


def explain(tx: GradientTransformation, params: PyTree) -> Explanation:
    """Which executor an in-place step of these parameters uses, and why a preferred one is not.

    Args:
        tx: any transformation; the links of a chain that run as one are shown as one.
        params: the parameters; nothing is computed on them.

    >>> import torch, optimfx as fx
    >>> fx.explain(fx.chain(fx.clip_by_global_norm(1.0), fx.adamw()), {"w": torch.ones(8, 8), "b": torch.ones(8)})
    transform                    executor  leaves  elements  dtype    device  reason
    clip_by_global_norm + adamw  aten      2       72        float32  cpu     torch's own kernel
    """
    return Explanation(explain_link(tx, params))


def explain_link(tx: GradientTransformation, params: PyTree) -> list[Row]:
    """The rows of one transformation; what cannot explain itself runs as its author wrote it."""
    if hasattr(tx.update, "explain"):
        rows: list[Row] = tx.update.explain(params)
        return rows
    name = tx.update.outline().name if hasattr(tx.update, "outline") else name_of(tx.update)
    return [_row(name, "as given", group, "a function of the whole tree") for group in _groups(params)]


def explain_rules(links: Sequence[Link], params: PyTree) -> list[Row]:
    """The rows of rules that run as one: the groups of leaves, and the choice for each."""
    steps = tuple([first_step(link) for link in links])
    name = " + ".join(step.name for step in steps)
    rows = []
    for group in _groups(params):
        executor, reason = select(typed(steps, group.params[0]), group, stepping=True, inplace=True)
        if executor.name == "triton" and any(map(_measures_norms, steps)):
            reason += "; before it, kernels that measure norms"
        rows.append(_row(name, executor.name, group, reason))
    return rows


def _measures_norms(step: Step) -> bool:
    return step.rule.locality is Locality.NORM or step.rule.needs_global_norm


def _groups(params: PyTree) -> list[Leaves]:
    """The parameters by device and dtype, standing for their gradients too."""
    groups: dict[Any, list[Any]] = {}
    for leaf in tree.flatten(params)[0]:
        if leaf is not None:
            # A step in place is not differentiated, though the parameters of a module ask for gradients.
            groups.setdefault((leaf.device, leaf.dtype), []).append(leaf.detach())
    return [Leaves(group, group, []) for group in groups.values()]


def _row(transform: str, executor: str, group: Leaves, reason: str) -> Row:
    first = group.grads[0]
    dtype = str(first.dtype).removeprefix("torch.")
    return Row(
        transform, executor, len(group.grads), sum(g.numel() for g in group.grads), dtype, str(first.device), reason
    )
