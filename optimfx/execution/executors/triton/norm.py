"""What is measured of all leaves: programs add up chunks, and one program adds up these sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimfx.core import tree
from optimfx.core.rule import Rule
from optimfx.core.types import Value
from optimfx.execution.executors.custom_op.op import UNSAFE, move_members_first
from optimfx.execution.executors.triton.codegen.generate import norm_source, totals_source
from optimfx.execution.executors.triton.codegen.op_table import DTYPES
from optimfx.execution.executors.triton.runtime import build, launch
from optimfx.execution.leaves import PLAIN, Leaves
from optimfx.execution.step import NUMBERS, flat_scalars

MEASURED = {*DTYPES, *[dtype.to_complex() for dtype in DTYPES if dtype != torch.bfloat16]}
"""The tensors that a norm may measure."""


def unsupported_reason(tensors: Sequence[Tensor]) -> str | None:
    """Why kernels cannot measure these."""
    if not tensors or not build.serves(tensors[0].device):
        return "no kernels here"
    if any(t.dtype not in MEASURED or t.layout is not torch.strided for t in tensors):
        return "no kernel for this dtype or layout"
    if not set(map(type, tensors)) <= PLAIN:
        return "tensor subclasses"
    return "on several devices" if len(set(map(Tensor.get_device, tensors))) > 1 else None


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Measure the 2-norm of all elements of all tensors, in float64: without a wait, and always the same bits."""
    columns: dict[torch.dtype, list[Tensor]] = {}
    for t in tensors:
        columns.setdefault(t.dtype, []).append(t)
    norms = [
        launch.measure(build.kernels(norm_source(dtype.to_real())), [column])[0] for dtype, column in columns.items()
    ]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def totals(name: str, rule: Rule, leaves: Leaves, hyper: Sequence[Value]) -> Tensor | None:
    """Add up what a rule measures of these leaves, as a float64 vector without a wait; ``None`` without a kernel."""
    columns = [column for column in leaves.columns() if column[0] is not None]
    numbers = flat_scalars(hyper)
    on_host = not any(isinstance(x, Tensor) for x in numbers)
    if not on_host or unsupported_reason([t for column in columns for t in column]):
        return None
    rows: dict[tuple[torch.dtype | None, ...], list[int]] = {}
    for i, row in enumerate(zip(*leaves.columns())):
        rows.setdefault(tuple([None if t is None else t.dtype for t in row]), []).append(i)
    found = []
    for dtypes, places in rows.items():
        of_reals = tuple([None if dtype is None else dtype.to_real() for dtype in dtypes])
        source, reason = totals_source(name, rule, hyper, of_reals)
        if reason is not None:
            return None
        taken = [[column[i] for i in places] for column in columns]
        found.append(launch.measure(build.kernels(source), taken, [x for x in numbers if type(x) in NUMBERS]))
    return found[0] if len(found) == 1 else torch.stack(found).sum(0)


@torch.library.custom_op("optimfx::global_norm", mutates_args=(), tags=UNSAFE)
def _global_norm(tensors: list[Tensor]) -> Tensor:
    """Measure the norm of all tensors together, in float64."""
    measure = global_norm if build.serves(tensors[0].device) else tree.global_norm
    return measure(tensors).to(torch.float64, copy=True)


@_global_norm.register_fake
def _(tensors):  # type: ignore[no-untyped-def]
    return tensors[0].new_empty((), dtype=torch.float64)


@_global_norm.register_vmap
def _(info, in_dims, tensors):  # type: ignore[no-untyped-def]
    rows = [move_members_first(t, dim, info.batch_size).flatten(1).double() for t, dim in zip(tensors, in_dims[0])]
    norms = torch.stack([torch.linalg.vector_norm(row, dim=1) for row in rows])
    return torch.linalg.vector_norm(norms, dim=0), 0
