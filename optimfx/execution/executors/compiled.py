"""Compiles a rule by Inductor into one pass over flat memory: ``fused=True`` on a CPU, for every elementwise rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optimfx.core.types import Key, Value
from optimfx.execution.executors.base import BoundStep, Executor, uncut_reason, unlisted_reason
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory import packing
from optimfx.execution.memory.dtypes import compute_dtype, load
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.program.specialize import Dynamic, bind_values, dynamic_values, static_form
from optimfx.execution.step import Steps

MIN_ELEMENTS = 1 << 20
"""The least number of elements in half precision that are compiled by default: there, converting block by block is
slower than torch, and one compiled pass faster (``make bench``)."""
EXAMPLE = 1 << 20
"""Elements that a kernel is compiled on. It takes any number of them, but decides on its threads by this one."""


_kernels: dict[Key, Callable[..., Any]] = {}


class Compiled(Executor):
    """Runs elementwise rules as one pass over flat memory, compiled by Inductor."""

    name = "compiled"
    description = "one compiled pass"

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        return (
            uncut_reason(steps, leaves)
            or unlisted_reason(steps, leaves)
            or (None if _has_compiler() else "no C++ compiler was found")
        )

    def slower_reason(self, leaves: Leaves) -> str | None:
        dtype = leaves.grads[0].dtype
        if not dtype.is_complex and dtype.itemsize < 4 and sum(map(Tensor.numel, leaves.grads)) >= MIN_ELEMENTS:
            return None
        return "has to be asked for, as compiling takes seconds"

    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        layout = packing.Layout(leaves, stepping=stepping, inplace=inplace)

        def run(steps: Steps, numbers: Sequence[Value], leaves: Leaves) -> Results:
            forms = [static_form(step) for step in steps]
            given = [float(x) for step, form in zip(steps, forms) for x in dynamic_values(step, form)]
            scalars = torch.tensor(given, dtype=torch.float64, device="cpu")
            rules = tuple([(step.rule, step.maximize, form) for step, form in zip(steps, forms)])
            same = (rules, stepping, torch.get_num_threads())

            def kernel(row: packing.Row, outs: packing.Row, span: packing.Span) -> None:
                apart = outs[0] is not row[0 if stepping else 1]
                tensors = [t for t in (*row, *(outs if apart else ())) if t is not None]
                key = (*same, apart, tuple([None if t is None else t.dtype for t in (*row, *outs)]))
                if key not in _kernels:
                    _kernels[key] = _compile(steps, forms, row, outs if apart else None, stepping)
                _kernels[key](scalars, *tensors)

            return layout.run(kernel, leaves)

        return run


def _compile(
    steps: Steps, forms: Sequence[tuple[Any, ...]], row: packing.Row, outs: packing.Row | None, stepping: bool
) -> Callable[..., Any]:
    """Compile the rules to a function ``(scalars, *row, *outs)`` of the tensors that are there, of any size."""
    # Inductor takes a second to import.
    from torch._inductor import standalone_compile
    from torch.fx.experimental.proxy_tensor import make_fx

    def function(scalars: Tensor, *tensors: Tensor) -> list[Tensor]:
        numbers, left = iter(scalars.unbind()), iter(tensors)
        whole = [bind_values(step, form, numbers) for step, form in zip(steps, forms)]
        param, grad, *slots = [None if t is None else next(left) for t in row]
        own = [param if stepping else grad, *slots]
        to = own if outs is None else [None if t is None else next(left) for t in outs]
        dtype = compute_dtype(tensors)
        param, grad, *slots = [None if t is None else load(t, dtype) for t in (param, grad, *slots)]
        values = apply_rules(tuple(whole), param, grad, slots, stepping)
        return [out.copy_(value) for out, value in zip(to, values) if out is not None]

    tensors = [t for t in (*row, *(outs or ())) if t is not None]
    given = sum(isinstance(part, Dynamic) for form in forms for part in form)
    with torch.no_grad(), torch.inference_mode(False):
        examples = [torch.ones(EXAMPLE, dtype=t.dtype, device="cpu") for t in tensors]
        graph = make_fx(function, tracing_mode="symbolic")(
            torch.ones(given, dtype=torch.float64, device="cpu"), *examples
        )
        inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
        return standalone_compile(graph, inputs)


@cache
def _has_compiler() -> bool:
    """Whether there is a C++ compiler; if not, that is said once."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        warnings.warn(
            "no C++ compiler was found, so that the blocked executor runs instead of the compiled one; install g++ or "
            "clang++, or name one in the environment variable CXX.",
            stacklevel=2,
        )
        return False
    return True
