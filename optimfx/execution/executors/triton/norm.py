"""The norm of all gradients: programs sum the squares of chunks, and one program sums these."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimfx.core import tree
from optimfx.execution.executors.custom_op.op import UNSAFE, move_members_first
from optimfx.execution.executors.triton.codegen.generate import norm_source
from optimfx.execution.executors.triton.codegen.op_table import DTYPES
from optimfx.execution.executors.triton.runtime import build, launch
from optimfx.execution.leaves import PLAIN

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
        launch.measure_norm(build.kernels(norm_source(dtype.to_real())), column) for dtype, column in columns.items()
    ]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


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
