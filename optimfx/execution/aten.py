"""The kernels that torch has for some algorithms: a table of calls, no mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.execution import blocked, flat
from optimfx.execution.hyper import Step, Steps
from optimfx.execution.leaves import Leaves

name = "aten"
virtue = "torch's own kernel"


def _adam(step: Step, params: Any, grads: Any, slots: list[Any], counts: list[Tensor]) -> None:
    h = step.hyper
    kernel: Any = torch._fused_adamw_ if h["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = h["betas"]
    hyper = {"lr": h["lr"], "beta1": beta1, "beta2": beta2, "eps": h["eps"], "weight_decay": h["weight_decay"]}
    kernel(params, grads, *slots, counts, **hyper, amsgrad=bool(slots[2]), maximize=step.maximize)


def _adagrad(step: Step, params: Any, grads: Any, slots: list[Any], counts: list[Tensor]) -> None:
    kernel: Any = torch._fused_adagrad_
    kernel(params, grads, *slots, counts, **step.hyper, maximize=step.maximize)


def _sgd(step: Step, params: Any, grads: Any, slots: list[Any], counts: list[Tensor]) -> None:
    if _is_sum(step):
        torch._foreach_add_(params, grads, alpha=step.hyper["lr"] * (1 if step.maximize else -1))
        return
    kernel: Any = torch._fused_sgd_
    hyper = {name: value for name, value in step.hyper.items() if name != "sign"}
    kernel(params, grads, *slots, **hyper, maximize=step.maximize, is_first_step=step.count == 1)


def _is_sum(step: Step) -> bool:
    """Whether a step of SGD is one addition, for which torch has a faster kernel, and one that is right in bfloat16."""
    return step.rule.aten == "sgd" and not (step.hyper["momentum"] or step.hyper["weight_decay"])


def _is_right_in_half(step: Step) -> bool:
    """Whether torch's kernel computes in float32 then: Adagrad's rounds the decayed gradient, SGD's is plainly off."""
    return step.rule.aten == "adam" or _is_sum(step) or (step.rule.aten == "adagrad" and not step.hyper["weight_decay"])


CALLS: dict[str, Callable[..., None]] = {"adam": _adam, "adagrad": _adagrad, "sgd": _sgd}
"""The calls of torch's kernels, by what a rule that they equal calls them."""

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
    if leaves.grads[0].dtype.itemsize < 4 and not _is_right_in_half(step):
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
    together, rest = _split(step, last)
    if together:
        part = last.take(together)
        _call(step, [part.params, part.grads, *part.slots])
    if rest:
        dtype = last.params[0].dtype

        def kernel(row: flat.Row, outs: flat.Row) -> None:
            _call(step, [[t] for t in row])

        flat.run(kernel, last.take(rest), stepping=True, inplace=True, dtype=dtype)
    return list(leaves.params), [list(column) for column in leaves.slots]


def _split(step: Step, leaves: Leaves) -> tuple[list[int], list[int]]:
    """The places of the leaves that one call takes as they lie, and of those that are run as stretches of memory."""
    places = range(len(leaves.grads))
    if _is_sum(step):
        return list(places), []
    large = [i for i in places if leaves.grads[i].numel() > flat.SMALL]
    rows = {i: [leaves.params[i], leaves.grads[i], *[column[i] for column in leaves.slots]] for i in large}
    together = [i for i in large if all(t is None or t.is_contiguous() for t in rows[i])]
    return together, sorted({*places} - {*together})


def _call(step: Step, columns: Sequence[Any]) -> None:
    params, grads, *slots = [[] if column[0] is None else column for column in columns]
    count = torch.tensor(float(step.count), dtype=torch.float32, device="cpu")
    CALLS[step.rule.aten](step, params, grads, slots, [count] * len(grads))
