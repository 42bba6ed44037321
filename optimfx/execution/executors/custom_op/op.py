"""Defines the custom ops: a step of all leaves is one node of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from optimfx.core import Locality
from optimfx.core.types import Column
from optimfx.execution.executors.custom_op.signature import decode
from optimfx.execution.executors.eager import run_eagerly
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.program.specialize import bind_values
from optimfx.execution.step import Steps, fill_param_dtype, flat_scalars

UNSAFE = (torch.Tag.cudagraph_unsafe,)
"""Keeps the ops out of Inductor's CUDA graphs: the tables that kernels cache must not lie in a graph's memory."""


def _leaves(
    word: str, params: Sequence[Tensor], grads: Sequence[Tensor], slots: Sequence[Tensor]
) -> tuple[Steps, Leaves]:
    _, steps, kept = decode(word)
    size = len(grads)
    parts = iter([slots[i : i + size] for i in range(0, len(slots), size)])
    columns = [next(parts) if there == "1" else [None] * size for there in kept]
    leaves = Leaves(params or [None] * size, grads, columns)
    return fill_param_dtype(steps, leaves.params[0]), leaves


def forms_of(steps: Steps) -> list[tuple[Any, ...]]:
    """Return the scalars of the steps that an op is told, some of them left open."""
    return [tuple(flat_scalars(step.scalars)) for step in steps]


def _flat(results: Column, slots: Sequence[Column]) -> list[Tensor]:
    return [t for column in (results, *slots) for t in column if t is not None]


class Launch(Protocol):
    """Runs the leaves of an op, or returns ``None`` if it turns out that it cannot.

    ``hyper`` has a row for each scalar that is left open: of one number, or of one for each leaf; and where there are
    several members, with one for each of them as the last dimension.
    """

    def __call__(
        self, steps: Steps, leaves: Leaves, hyper: Tensor, *, stepping: bool, inplace: bool, members: int
    ) -> Results | None: ...


LAUNCHES: dict[str, Launch] = {}
"""The functions that run an op's leaves, by the name of the executor with which its word begins."""


def _launched(
    word: str,
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    hyper: Tensor,
    *,
    stepping: bool,
    inplace: bool,
    members: int,
) -> list[Tensor]:
    steps, leaves = _leaves(word, params, grads, slots)
    launch = LAUNCHES[decode(word)[0]]
    results = launch(steps, leaves, hyper, stepping=stepping, inplace=inplace, members=members)
    if results is not None:
        return _flat(*results)
    new = run_reference(word, stepping, members, params, grads, slots, hyper)
    if inplace:
        torch._foreach_copy_([*params, *slots], new)
    return new


@torch.library.custom_op("optimfx::update", mutates_args=(), tags=UNSAFE)
def update(
    word: str,
    stepping: bool,
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    hyper: Tensor,
    members: int,
) -> list[Tensor]:
    """Run an op: return the results and the new slots, by column, of leaves that each consist of so many members."""
    return _launched(word, params, grads, slots, hyper, stepping=stepping, inplace=False, members=members)


@torch.library.custom_op("optimfx::step_", mutates_args=("params", "slots"), tags=UNSAFE)
def step_(word: str, params: list[Tensor], grads: list[Tensor], slots: list[Tensor], hyper: Tensor) -> None:
    """Take a step in place."""
    _launched(word, params, grads, slots, hyper, stepping=True, inplace=True, members=1)


@update.register_fake
def _(word, stepping, params, grads, slots, hyper, members):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t) for t in (*(params if stepping else grads), *slots)]


@update.register_vmap
def _(info, in_dims, word, stepping, params, grads, slots, hyper, members):  # type: ignore[no-untyped-def]
    size = info.batch_size

    def first(tensors: list[Tensor], dims: Any) -> list[Tensor]:
        dims = dims if isinstance(dims, (list, tuple)) else [dims] * len(tensors)
        return [move_members_first(t, dim, size).contiguous() for t, dim in zip(tensors, dims)]

    _, steps, _ = decode(word)
    whole = any(step.rule.locality is Locality.POSITION or step.rule.locality is Locality.NORM for step in steps)
    of_members = in_dims[5] is not None or members > 1 or whole
    if of_members:
        hyper = move_members_first(
            hyper, in_dims[5], size
        )  # shape=(size, scalars), (..., leaves), (..., members), or both
        hyper = (hyper.unsqueeze(-1) if members == 1 else hyper).movedim(0, -2).flatten(-2)
        members *= size
    columns = [first(tensors, dims) for tensors, dims in zip((params, grads, slots), in_dims[2:5])]
    new = torch.ops.optimfx.update(word, stepping, *columns, hyper, members)
    return new, [0] * len(new)


def move_members_first(t: Tensor, dim: int | None, size: int) -> Tensor:
    """Move the members of a tensor to its first dimension."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def run_reference(
    word: str,
    stepping: bool,
    members: int,
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    hyper: Tensor,
) -> list[Tensor]:
    """Compute the same by the rules on tensors."""
    if members > 1:
        each = torch.vmap(lambda *args: run_reference(word, stepping, 1, *args), in_dims=(0, 0, 0, hyper.dim() - 1))
        split = [[t.view(members, -1) for t in tensors] for tensors in (params, grads, slots)]
        like = (*(params if stepping else grads), *slots)
        return [new.view(t.shape) for new, t in zip(each(*split, hyper), like)]
    steps, leaves = _leaves(word, params, grads, slots)
    numbers = iter(hyper.unbind())
    whole = tuple([bind_values(step, form, numbers) for step, form in zip(steps, forms_of(steps))])
    return _flat(*run_eagerly(whole, leaves, stepping=stepping, inplace=False))
