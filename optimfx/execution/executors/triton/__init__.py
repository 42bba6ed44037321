"""Runs any rule, or chain of rules, as one Triton kernel with one launch for all leaves: a GPU's default.

``codegen``: the rule is run once on values that stand for tensors (``recording``) and printed (``lower``) in Triton's
words (``op_table``) into the one kernel that there is (``template``). ``runtime``: the kernel is compiled (``build``)
and finds the leaves by tables on the device (``tables``, ``launch``). Norms are measured before (``norm``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optimfx.core import Locality
from optimfx.core.types import Array, Value
from optimfx.execution.executors.base import BoundStep, Executor, symbolic_reason
from optimfx.execution.executors.custom_op import traced
from optimfx.execution.executors.custom_op.op import LAUNCHES, forms_of
from optimfx.execution.executors.custom_op.traced import op_step
from optimfx.execution.executors.triton.codegen.generate import source
from optimfx.execution.executors.triton.codegen.op_table import DTYPES
from optimfx.execution.executors.triton.runtime import build
from optimfx.execution.executors.triton.runtime.launch import BoundKernels
from optimfx.execution.leaves import PLAIN, Leaves, Results
from optimfx.execution.program.specialize import Dynamic, dynamic_values, static_form
from optimfx.execution.step import Steps


class Triton(Executor):
    """Runs elementwise rules, and those that measure norms, as one kernel; in a trace, as an op."""

    name = "triton"
    description = "one kernel for all leaves"
    traceable = True

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        if symbolic_reason(steps, leaves):
            return _unfit_for_op(steps, leaves) or traced.unsupported_reason(steps, leaves)
        if not build.INSTALLED:
            return "Triton is not installed"
        if not build.serves(leaves.grads[0].device):
            if leaves.grads[0].is_cuda:
                return "interpreted, which is for the host" if build.INTERPRETED else "Triton finds no C compiler"
            return "not on a GPU"
        if not all(step.rule.elementwise or step.rule.locality is Locality.NORM for step in steps):
            return "the rule is not elementwise"
        forms = list(map(static_form, steps))
        return _unfit(leaves) or source(steps, forms, _on_host(steps, forms), leaves, stepping, inplace)[1]

    def slower_reason(self, leaves: Leaves) -> str | None:
        return "interpreted: for tests" if build.INTERPRETED else None

    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        if symbolic_reason(steps, leaves):
            return op_step(self.name, stepping=stepping, inplace=inplace)
        forms = list(map(static_form, steps))
        on_host = _on_host(steps, forms)
        kernels = build.kernels(source(steps, forms, on_host, leaves, stepping, inplace)[0])
        bound = BoundKernels(kernels, leaves, stepping=stepping, inplace=inplace, positional=_is_positional(steps))
        if all(on_host) and not any([Dynamic.CONDITION in form for form in forms]):
            return lambda steps, numbers, leaves: bound.run(leaves, numbers, ())

        def run(steps: Steps, numbers: Sequence[Value], leaves: Leaves) -> Results:
            scalars = _dynamic_values(steps, forms)
            tensors = [x for x in scalars if isinstance(x, Tensor)]
            return bound.run(leaves, [x for x in scalars if not isinstance(x, Tensor)], tensors)

        return run


def _is_positional(steps: Steps) -> bool:
    """Whether the order of the elements matters."""
    return any(step.rule.locality is Locality.POSITION for step in steps)


def _dynamic_values(steps: Steps, forms: Sequence[tuple[Any, ...]]) -> list[Array]:
    """Return the scalars that a kernel is given at each step."""
    return [x for step, form in zip(steps, forms) for x in dynamic_values(step, form)]


def _on_host(steps: Steps, forms: Sequence[tuple[Any, ...]]) -> list[bool]:
    """Which of these are numbers on the host."""
    return [not isinstance(x, Tensor) for x in _dynamic_values(steps, forms)]


def _unfit(leaves: Leaves) -> str | None:
    """Why a kernel may not read and write where these leaves lie."""
    columns = [c for c in (leaves.params, leaves.grads, *leaves.slots) if c[0] is not None]
    if not set().union(*[map(type, column) for column in columns]) <= PLAIN:
        return "tensor subclasses"
    for dtype in {column[0].dtype for column in columns}:
        if dtype.to_real() not in DTYPES:
            return f"no kernel for {dtype}"
    several = len(set().union(*[map(Tensor.get_device, column) for column in columns])) > 1
    return "leaf and state on different devices" if several else None


def _unfit_for_op(steps: Steps, leaves: Leaves) -> str | None:
    """Why an op cannot launch a kernel on these leaves, which may be tracers."""
    if not build.serves(leaves.grads[0].device):
        return "no kernels here"
    if not all(step.rule.has_kernel for step in steps):
        return "the rule is not elementwise"
    columns = [c for c in (leaves.params, leaves.grads, *leaves.slots) if c[0] is not None]
    return None if all(column[0].dtype in DTYPES for column in columns) else "no kernel for these dtypes"


def _launch(
    steps: Steps, leaves: Leaves, hyper: Tensor, *, stepping: bool, inplace: bool, members: int
) -> Results | None:
    """Launch the kernel of an op."""
    forms = forms_of(steps)
    text, reason = source(steps, forms, [False] * len(_dynamic_values(steps, forms)), leaves, stepping, inplace)
    if reason is not None:
        return None
    how: dict[str, Any] = {"stepping": stepping, "inplace": inplace, "positional": _is_positional(steps)}
    scalars = hyper.flatten(1) if hyper.dim() > 1 else hyper  # of each leaf and member in turn
    return BoundKernels(build.kernels(text), leaves, members=members, **how).run(leaves, (), scalars)


LAUNCHES["triton"] = _launch
