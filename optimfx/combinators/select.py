"""One of two outcomes, where the condition may be a tensor whose value cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import PyTree, tracing, tree


def choose(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
    """One of two trees: where the condition is a tensor, element by element. Counts stay shared by their leaves."""
    if condition is True:
        return yes
    leaves, spec = tree.flatten(yes)
    others: list[Any] = spec.flatten_up_to(no)
    chosen: list[Any] = []
    for i, (x, y) in enumerate(zip(leaves, others)):
        as_before = i > 0 and x is leaves[i - 1] and tracing.is_same_tensor(y, others[i - 1])
        chosen.append(chosen[-1] if as_before else x if x is y else torch.where(condition, x, y))
    return tree.unflatten(spec, chosen)


def zeros_like(tensors: Sequence[Any], where: Sequence[Any]) -> list[Any]:
    """Zeros like these, where there is something in the other column."""
    return [None if given is None else torch.zeros_like(x) for x, given in zip(tensors, where)]


def copy_into(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """Copy the new values into the memory of the old ones."""
    with tracing.no_grad_if_inplace(True, old):
        return [x if x is y else x.copy_(y) for x, y in zip(old, new)]


def number_not_finite(updates: PyTree) -> Tensor:
    """How many elements are infinite or NaN, as a 0-d tensor."""
    leaves = [leaf for leaf in tree.flatten(updates)[0] if leaf is not None]
    if not leaves:
        return torch.zeros((), dtype=torch.int64)
    counts = [(~torch.isfinite(_values(leaf))).sum() for leaf in leaves]
    return torch.stack([count.to(counts[0].device) for count in counts]).sum()


def _values(leaf: Tensor) -> Tensor:
    return leaf.coalesce().values() if leaf.is_sparse else leaf


def copy_of(params: PyTree) -> PyTree:
    """Copy the parameters, which a step in place would write over."""
    column, spec = tree.flatten(params)
    return tree.unflatten(spec, [p if p is None else p.clone() for p in column])
