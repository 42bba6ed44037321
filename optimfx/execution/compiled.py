"""The rule compiled by Inductor into one pass over flat memory: a CPU's ``fused=True``, for every elementwise rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any

import torch
from torch import Tensor

from optimfx.execution import blocked, eager, flat
from optimfx.execution.hyper import Step, Steps
from optimfx.execution.leaves import Leaves
from optimfx.execution.storage import compute_dtype, load

name = "compiled"
virtue = "one compiled pass"

SMALL = 1 << 13
"""Elements of a leaf above which packing costs more than the calls that it saves, by ``make bench``."""
MANY = 1 << 20
"""Elements in half precision from which on it is chosen unasked: there, to convert block by block takes longer than
torch, which rounds at every operation, and one compiled pass a fraction of that, by ``make bench``."""
EXAMPLE = 1 << 20
"""Elements that a kernel is compiled on. It takes any number of them, but decides on its threads by this one."""


class _Open(Enum):
    """Stands for a scalar that a kernel is given at each call; of the others it is made."""

    NUMBER = 0
    CONDITION = 1


_kernels: dict[Any, Callable[..., Any]] = {}


def refusal(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> str | None:
    """Why these leaves cannot run here."""
    return blocked.refusal(steps, leaves, stepping, inplace)


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better."""
    dtype = leaves.grads[0].dtype
    if not dtype.is_complex and dtype.itemsize < 4 and sum(map(Tensor.numel, leaves.grads)) >= MANY and _has_compiler():
        return None
    return "has to be asked for, as compiling takes seconds"


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    if not _has_compiler():
        return blocked.run(steps, leaves, stepping=stepping, inplace=inplace)
    forms = [_form(step) for step in steps]
    pairs = [pair for step, form in zip(steps, forms) for pair in zip(step.scalars, form)]
    scalars = torch.tensor([float(x) for x, part in pairs if isinstance(part, _Open)], dtype=torch.float64)
    rules = tuple([(step.rule, step.maximize, form) for step, form in zip(steps, forms)])
    same = (rules, stepping, torch.get_num_threads())

    def kernel(row: flat.Row, outs: flat.Row) -> None:
        apart = outs[0] is not row[0 if stepping else 1]
        tensors = [t for t in (*row, *(outs if apart else ())) if t is not None]
        key = (*same, apart, tuple([None if t is None else t.dtype for t in (*row, *outs)]))
        if key not in _kernels:
            _kernels[key] = _compile(steps, forms, row, outs if apart else None, stepping)
        _kernels[key](scalars, *tensors)

    return flat.run(kernel, leaves, stepping=stepping, inplace=inplace, small=SMALL)


def _form(step: Step) -> tuple[Any, ...]:
    """The scalars with those that may change from step to step left open."""
    flags = [isinstance(x, bool) for x in step.scalars]
    numbers = [isinstance(x, (int, float, Tensor)) and not flag for x, flag in zip(step.scalars, flags)]
    form = [_Open.NUMBER if number else x for x, number in zip(step.scalars, numbers)]
    if step.count is not None and any(flags):
        # Of a flag nothing shows whether it hangs on the count, but that it is a tensor when the count is one.
        probe = step.rule.scalars(torch.tensor(step.count, dtype=torch.float64), **step.hyper)
        hanging = [flag and isinstance(x, Tensor) for x, flag in zip(probe, flags)]
        form = [_Open.CONDITION if hangs else x for x, hangs in zip(form, hanging)]
    return tuple(form)


def _filled(scalars: Any, form: tuple[Any, ...], numbers: Iterator[Tensor]) -> Any:
    """The scalars with what was left open taken from the numbers."""
    values = [next(numbers) if isinstance(part, _Open) else part for part in form]
    return type(scalars)(*[x != 0 if part is _Open.CONDITION else x for x, part in zip(values, form)])


def _compile(
    steps: Steps, forms: Sequence[tuple[Any, ...]], row: flat.Row, outs: flat.Row | None, stepping: bool
) -> Callable[..., Any]:
    """The rules as a function ``(scalars, *row, *outs)`` of the tensors that are there, of any size."""
    # Inductor takes a second to import.
    from torch._inductor import standalone_compile
    from torch.fx.experimental.proxy_tensor import make_fx

    def function(scalars: Tensor, *tensors: Tensor) -> list[Tensor]:
        numbers, left = iter(scalars.unbind()), iter(tensors)
        whole = [step._replace(scalars=_filled(step.scalars, form, numbers)) for step, form in zip(steps, forms)]
        param, grad, *slots = [None if t is None else next(left) for t in row]
        own = [param if stepping else grad, *slots]
        to = own if outs is None else [None if t is None else next(left) for t in outs]
        dtype = compute_dtype(tensors)
        param, grad, *slots = [None if t is None else load(t, dtype) for t in (param, grad, *slots)]
        values = eager.leaf(tuple(whole), param, grad, slots, stepping)
        return [out.copy_(value) for out, value in zip(to, values) if out is not None]

    tensors = [t for t in (*row, *(outs or ())) if t is not None]
    given = sum(isinstance(part, _Open) for form in forms for part in form)
    with torch.no_grad(), torch.inference_mode(False):
        examples = [torch.ones(EXAMPLE, dtype=t.dtype) for t in tensors]
        graph = make_fx(function, tracing_mode="symbolic")(torch.ones(given, dtype=torch.float64), *examples)
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
