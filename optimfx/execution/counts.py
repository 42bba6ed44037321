"""Step counts, one tensor for all leaves that have been stepped together."""

from __future__ import annotations

from typing import Any


def runs_of(steps: list[Any], live: list[int]) -> list[list[int]]:
    """The live leaves in runs that share a count. Compared by ``is``: torch.compile would guard on an ``id``."""
    runs: list[list[int]] = []
    for i in live:
        if runs and steps[i] is steps[runs[-1][0]]:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def advance(steps: list[Any], runs: list[list[int]]) -> list[Any]:
    """The counts, one higher for every live leaf; a run goes on sharing its own."""
    counts = list(steps)
    for run in runs:
        step = steps[run[0]]
        higher = None if step is None else step + 1
        for i in run:
            counts[i] = higher
    return counts


def donate(steps: list[Any], counts: list[Any], runs: list[list[int]]) -> list[Any]:
    """The counts in the old tensors, but for one that a leaf outside of the run holds too."""
    donated = list(counts)
    for run in runs:
        step = steps[run[0]]
        if step is not None and sum(other is step for other in steps) == len(run):
            step.copy_(counts[run[0]])
            for i in run:
                donated[i] = step
    return donated
