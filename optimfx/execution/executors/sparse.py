"""Applies a rule to the elements of a sparse COO gradient, and to no others."""

from __future__ import annotations

import torch
from torch import Tensor

from optimfx.core.types import Array
from optimfx.execution.executors.base import Unplanned
from optimfx.execution.executors.eager import run_eagerly
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.step import Steps


class Sparse(Unplanned):
    """Runs rules on the elements that a gradient has."""

    name = "sparse"
    description = "sparse gradients: the elements that are there"
    traceable = True

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        return None if leaves.grads[0].is_sparse else "the gradients are dense"

    def run(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
        """Run the rules: return sparse updates, or with ``stepping`` whole parameters, and the new slots."""
        results = []
        columns: list[list[Array]] = [[] for _ in leaves.slots]
        for param, grad, *slots in leaves.rows():
            # The rule is nonlinear, so duplicate indices must be summed first.
            grad = grad.coalesce()
            place = tuple(grad.indices())
            present = Leaves([_pick(param, place)], [grad.values()], [[_pick(slot, place)] for slot in slots])
            (result,), new = run_eagerly(steps, present, stepping=stepping, inplace=False)
            if stepping:
                results.append(_put(param, place, result, inplace))
            else:
                results.append(_sparse(grad.indices(), result, grad.shape))
            for column, slot, (values,) in zip(columns, slots, new):
                column.append(None if slot is None else _put(slot, place, values, inplace))
        return results, columns


def _sparse(indices: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    # The indices come from a tensor that was checked when it was made.
    return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=False)


def _pick(tensor: Tensor | None, place: tuple[Tensor, ...]) -> Tensor | None:
    return None if tensor is None else tensor[place]


def _put(tensor: Tensor, place: tuple[Tensor, ...], values: Tensor, inplace: bool) -> Tensor:
    return tensor.index_put_(place, values) if inplace else tensor.index_put(place, values)
