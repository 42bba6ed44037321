"""What all leaves that have been stepped together have in common: the step count, and the scalars a rule carries.

Each is one 0-d tensor, the same object for all of them, held in the state at every leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optimfx.modes import same

Columns = list[list[Any]]
"""The step count of each leaf, then each carried scalar of each leaf; nothing for a rule that does not count."""


def runs_of(shared: Columns, live: list[int]) -> list[list[int]]:
    """The live leaves in runs that share everything."""
    runs: list[list[int]] = []
    for i in live:
        if runs and all(same(column[i], column[runs[-1][0]]) for column in shared):
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def joined(runs: list[list[int]], values: Sequence[tuple[Any, ...]]) -> tuple[list[list[int]], list[int]]:
    """Runs of equal numbers as one, and the place at which each stood first; a tensor is taken to equal none."""
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


def donate(before: list[Any], after: list[Any], runs: list[list[int]]) -> None:
    """Put a column's new values into its old tensors, but for one that a leaf outside of the run holds too."""
    for run in runs:
        old = before[run[0]]
        if sum(other is old for other in before) == len(run):
            old.copy_(after[run[0]])
            for i in run:
                after[i] = old
