"""The kernels that torch has for some algorithms: a table of calls, no mathematics."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

from optimfx.execution import blocked, flat
from optimfx.execution.hyper import Step, Steps
from optimfx.execution.leaves import Leaves

name = "aten"
virtue = "torch's own kernel"


def _adam(step: Step, slots: list[Any], counts: list[Tensor]) -> tuple[Any, list[Any], dict[str, Any]]:
    h = step.hyper
    kernel = torch._fused_adamw_ if h["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = h["betas"]
    hyper = {"lr": h["lr"], "beta1": beta1, "beta2": beta2, "eps": h["eps"], "weight_decay": h["weight_decay"]}
    return kernel, [*slots, counts], {**hyper, "amsgrad": bool(slots[2])}


def _adagrad(step: Step, slots: list[Any], counts: list[Tensor]) -> tuple[Any, list[Any], dict[str, Any]]:
    return torch._fused_adagrad_, [*slots, counts], step.hyper


def _sgd(step: Step, slots: list[Any], counts: list[Tensor]) -> tuple[Any, list[Any], dict[str, Any]]:
    hyper = {name: value for name, value in step.hyper.items() if name != "sign"}
    return torch._fused_sgd_, slots, {**hyper, "is_first_step": step.count == 1}


CALLS: dict[str, Callable[..., tuple[Any, list[Any], dict[str, Any]]]] = {
    "adam": _adam,
    "adagrad": _adagrad,
    "sgd": _sgd,
}
"""By what a rule calls the kernels that do the same as it: the kernel, what follows the gradients, and the rest."""

OURS = ("eps_root", "sign")
"""Hyperparameters that these rules have and torch's kernels do not."""


def refusal(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> str | None:
    """Why these leaves cannot run here."""
    step = steps[-1]
    if step.rule.aten not in CALLS:
        return "torch has no kernel for it"
    if not (stepping and inplace):
        return "torch's kernel steps in place"
    if any(step.hyper.get(ours) for ours in OURS):
        return "a variant that torch's kernel does not have"
    if step.rule.aten == "sgd" and leaves.grads[0].dtype.itemsize < 4:
        return "torch's kernel is wrong in half precision"
    return blocked.refusal(steps, leaves, stepping, inplace) or _mismatch(step, _last(steps, leaves))


def _last(steps: Steps, leaves: Leaves) -> Leaves:
    """The leaves with the slots of the last of the steps."""
    return leaves._replace(slots=leaves.slots[len(leaves.slots) - len(steps[-1].rule.slots) :])


def _mismatch(step: Step, leaves: Leaves) -> str | None:
    columns = [leaves.params, leaves.grads, *[column for column in leaves.slots if column[0] is not None]]
    dtypes = {column[0].dtype for column in columns}
    if len(dtypes) > 1 or not leaves.grads[0].is_floating_point():
        return f"torch's kernel takes one real dtype, not {', '.join(sorted(map(str, dtypes)))}"
    if any(isinstance(value, Tensor) for value in (step.count, *step.hyper.values(), *step.hyper.get("betas", ()))):
        return "a hyperparameter is a tensor"
    contiguous = methodcaller("is_contiguous")
    if not all(all(map(contiguous, column)) for column in columns):
        if not all(flat.same_order(list(row)) for row in zip(*columns)):
            return "columns in different memory orders"
    return None


def drawback(leaves: Leaves) -> str | None:
    """Why another executor serves these leaves better."""
    return None


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    *before, step = steps
    last = _last(steps, leaves)
    if before:
        # Of the gradients, a step in place leaves what they are.
        last = last._replace(grads=[grad.clone() for grad in leaves.grads])
        others = leaves.slots[: len(leaves.slots) - len(last.slots)]
        blocked.run(tuple(before), last._replace(slots=others), stepping=False, inplace=True)
    slots = [[] if column[0] is None else column for column in last.slots]
    counts = [torch.tensor(float(step.count))] * len(leaves.grads)
    kernel, lists, hyper = CALLS[step.rule.aten](step, slots, counts)
    kernel(last.params, last.grads, *lists, **hyper, maximize=step.maximize)
    return list(leaves.params), [list(column) for column in leaves.slots]
