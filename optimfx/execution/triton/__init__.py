"""One kernel for any rule and any chain of rules, and one launch for all leaves: a GPU's default.

The rule is run once on values that stand for tensors (``lower``) and printed in Triton's words (``words``) into the one
kernel that there is (``template``), which is compiled (``build``) and finds the leaves by tables on the device
(``tables``, ``launch``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optimfx.execution.hyper import Steps
from optimfx.execution.leaves import PLAIN, Leaves
from optimfx.execution.open import form_of, left_open
from optimfx.execution.storage import computed_in
from optimfx.execution.triton import build, launch
from optimfx.execution.triton.lower import LoweringError, record
from optimfx.execution.triton.template import Layout, module
from optimfx.execution.triton.words import DTYPES

name = "triton"
virtue = "one kernel for all leaves"

_sources: dict[Any, tuple[str, str | None]] = {}
"""The source of a kernel, or why there is none."""


def refusal(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> str | None:
    """Why these leaves cannot run here."""
    if leaves.grads[0].device.type != ("cpu" if build.interpreted() else "cuda"):
        return "interpreted, which is for the host" if build.interpreted() else "not on a GPU"
    if not build.installed():
        return "Triton is not installed"
    if not all(step.rule.elementwise for step in steps):
        return "the rule is not elementwise"
    return _unfit(leaves) or source(steps, leaves, stepping, inplace)[1]


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better."""
    return "interpreted: for tests" if build.interpreted() else None


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    kernel = build.kernel(source(steps, leaves, stepping, inplace)[0])
    scalars = [x for step in steps for x in left_open(step.scalars, form_of(step))]
    positional = any(step.rule.positional for step in steps)
    return launch.run(kernel, scalars, leaves, stepping=stepping, inplace=inplace, positional=positional)


def source(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> tuple[str, str | None]:
    """The source of the kernel for these rules and dtypes, or why there is none."""
    # Who only asks, as ``explain`` does, has no slots: then they are as the gradients.
    slots = leaves.slots or [leaves.grads for step in steps for _ in step.rule.slots]
    columns = [leaves.params, leaves.grads, *slots]
    dtypes = tuple([None if column[0] is None else column[0].dtype.to_real() for column in columns])
    forms = [form_of(step) for step in steps]
    rules = tuple([(step.rule, step.maximize, form) for step, form in zip(steps, forms)])
    key = (rules, dtypes, stepping, inplace)
    if key not in _sources:
        compute = computed_in([dtype for dtype in dtypes if dtype is not None])
        try:
            recording = record(steps, forms, [dtype is not None for dtype in dtypes], stepping)
            layout = Layout(dtypes, compute, stepping, inplace)
            names = [step.name for step in steps]
            _sources[key] = module(names, recording, layout, build.interpreted()), None
        except LoweringError as reason:
            _sources[key] = "", str(reason)
    return _sources[key]


def _unfit(leaves: Leaves) -> str | None:
    """Why a kernel may not read and write where these leaves lie."""
    columns = [c for c in (leaves.params, leaves.grads, *leaves.slots) if c[0] is not None]
    if not set().union(*[map(type, column) for column in columns]) <= PLAIN:
        return "tensor subclasses"
    for dtype in {column[0].dtype for column in columns}:
        if dtype.to_real() not in DTYPES:
            return f"no kernel for {dtype}"
    if len(set().union(*[map(Tensor.get_device, column) for column in columns])) > 1:
        return "leaf and state on different devices"
    sizes = launch.numels(leaves.grads)
    return None if all(launch.numels(column) == sizes for column in columns) else "leaf and state of different sizes"
