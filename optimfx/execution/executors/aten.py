"""Calls torch's own fused kernels: a table of calls, no mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core.types import Array, Column, Value
from optimfx.execution.executors.base import BoundStep, Executor, uncut_reason, unlisted_reason
from optimfx.execution.executors.foreach import run_on_lists
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.memory import packing
from optimfx.execution.program.apply import apply_rules
from optimfx.execution.program.tape import Tape
from optimfx.execution.step import Step, Steps, with_numbers


def _adam(step: Step, params: Array, grads: Array, slots: list[Array]) -> None:
    h = step.hyper
    kernel: Any = torch._fused_adamw_ if h["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = h["betas"]
    hyper = {"lr": h["lr"], "beta1": beta1, "beta2": beta2, "eps": h["eps"], "weight_decay": h["weight_decay"]}
    kernel(params, grads, *slots, _counts(step, params), **hyper, amsgrad=bool(slots[2]), maximize=step.maximize)


def _adagrad(step: Step, params: Array, grads: Array, slots: list[Array]) -> None:
    kernel: Any = torch._fused_adagrad_
    kernel(params, grads, *slots, _counts(step, params), **step.hyper, maximize=step.maximize)


def _sgd(step: Step, params: Array, grads: Array, slots: list[Array]) -> None:
    kernel: Any = torch._fused_sgd_
    hyper = {name: value for name, value in step.hyper.items() if name != "sign"}
    kernel(params, grads, *slots, **hyper, maximize=step.maximize, is_first_step=step.count == 1)


def _is_plain_sgd(step: Step) -> bool:
    """Whether a step of SGD is one addition, for which torch has a faster kernel, and one that is right in bfloat16."""
    return step.rule.aten == "sgd" and not (step.hyper["momentum"] or step.hyper["weight_decay"])


def _is_accurate_in_half_precision(step: Step) -> bool:
    """Whether torch's kernel computes leaves in half precision in float32.

    Adagrad's rounds the decayed gradient, and SGD's is inaccurate.
    """
    return step.rule.aten == "adam" or _is_plain_sgd(step)


CALLS: dict[str | None, Callable[..., None]] = {"adam": _adam, "adagrad": _adagrad, "sgd": _sgd}
"""The calls of torch's kernels, by what a rule that they equal calls them."""

UNSUPPORTED_HYPERPARAMS = ("eps_root", "sign")
"""Hyperparameters that these rules have and torch's kernels do not."""


class ATen(Executor):
    """Runs the rules for which torch has a fused kernel."""

    name = "aten"
    description = "torch's own kernel"
    reads_scalars = False

    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        step = steps[-1]
        if step.rule.aten not in CALLS:
            return "torch has no kernel for it"
        if not stepping:
            return "torch's kernel makes parameters, not updates"
        if not (inplace or (_is_plain_sgd(step) and len(steps) == 1)):
            return "torch's kernel steps in place"
        if any(step.hyper.get(ours) for ours in UNSUPPORTED_HYPERPARAMS):
            return "a variant that torch's kernel does not have"
        if leaves.grads[0].dtype.itemsize < 4 and not _is_accurate_in_half_precision(step):
            return "torch's kernel is wrong in half precision"
        return (
            uncut_reason(steps, leaves)
            or unlisted_reason(steps, leaves)
            or _mismatch(step, _slots_of_last(steps, leaves))
        )

    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        last = _slots_of_last(steps, leaves)
        first = len(leaves.slots) - len(last.slots)
        # One call takes all leaves unpacked: packing small ones costs more than it saves.
        direct = [i for i, row in enumerate(last.rows()) if all(t is None or t.is_contiguous() for t in row)]
        others = sorted({*range(len(leaves.grads))} - {*direct})
        layout = (
            packing.Layout(last.take(others), stepping=True, inplace=True, dtype=last.params[0].dtype)
            if others
            else None
        )
        call = CALLS[steps[-1].rule.aten]
        changes = len(steps) > 1 and _changes(steps[:-1], leaves)

        def run(steps: Steps, numbers: Sequence[Value], leaves: Leaves) -> Results:
            params, grads, slots = leaves.params, leaves.grads, leaves.slots[first:]
            if changes:
                # An update out of place is written into copies: the gradients stay as they are.
                before = leaves._replace(slots=leaves.slots[:first])
                grads, new = run_on_lists(steps[:-1], before, stepping=False, inplace=False)
                for old, values in zip(leaves.slots, new):
                    if old[0] is not None:
                        torch._foreach_copy_(list(old), list(values))
            step = steps[-1]
            if _is_plain_sgd(step):
                add: Any = torch._foreach_add_ if inplace else torch._foreach_add
                sums = add(params, grads, alpha=step.hyper["lr"] * (1 if step.maximize else -1))
                return (params if inplace else sums), leaves.slots
            if layout is None:
                call(step, params, grads, _drop_absent(slots))
                return params, leaves.slots
            mine = Leaves(params, grads, slots)
            if direct:
                part = mine.take(direct)
                call(step, part.params, part.grads, _drop_absent(part.slots))
            layout.run(
                lambda row, outs, span: call(step, row[:1], row[1:2], _drop_absent([[t] for t in row[2:]])),
                mine.take(others),
            )
            return params, leaves.slots

        return run


def _changes(steps: Steps, leaves: Leaves) -> bool:
    """Whether the steps change the gradients, whatever the numbers: a clip within its bound does not."""
    tape = Tape()
    param, grad, *slots = [None if column[0] is None else tape.value() for column in leaves.columns()]
    result, *new = apply_rules(with_numbers(steps, tape.next_number), param, grad, slots, False)
    return result is not grad or bool(new)


def _slots_of_last(steps: Steps, leaves: Leaves) -> Leaves:
    """Return the leaves with the slots of the last of the steps."""
    return leaves._replace(slots=leaves.slots[len(leaves.slots) - len(steps[-1].rule.slots) :])


def _mismatch(step: Step, leaves: Leaves) -> str | None:
    columns = [leaves.params, leaves.grads, *[column for column in leaves.slots if column[0] is not None]]
    dtypes = {column[0].dtype for column in columns}
    if len(dtypes) > 1 or not leaves.grads[0].is_floating_point():
        return f"torch's kernel takes one real dtype, not {', '.join(sorted(map(str, dtypes)))}"
    if any(isinstance(value, Tensor) for value in (step.count, *step.hyper.values(), *step.hyper.get("betas", ()))):
        return "a hyperparameter is a tensor"
    return None


def _drop_absent(slots: Column) -> list[Array]:
    """Return the slots, empty where there is none."""
    return [column if column[0] is not None else [] for column in slots]


def _counts(step: Step, params: Column) -> list[Tensor]:
    """Return the step of each parameter, for the kernel to read."""
    # A product takes a microsecond; making a tensor of a number takes five.
    return [_ONE * step.count] * len(params)


_ONE = torch.ones((), dtype=torch.float32, device="cpu")
