"""Which executor runs a group of leaves, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import torch

from optimfx import modes
from optimfx.execution import eager, foreach, packed, sparse
from optimfx.execution.leaves import Leaves

EXECUTORS: dict[str, ModuleType] = {module.name: module for module in (packed, foreach, eager)}
"""In order of preference. An executor is a module: ``name``, ``refusal``, ``drawback``, ``run``."""

_forced: ContextVar[str | None] = ContextVar("forced", default=None)


class Choice(NamedTuple):
    """An executor, and why not one that stands before it."""

    executor: ModuleType
    reason: str


@contextmanager
def use(name: str) -> Iterator[None]:
    """Force an executor for the calls inside.

    >>> import torch, optimfx as fx
    >>> tx = fx.sgd(lr=0.1)
    >>> params = {"w": torch.ones(3)}
    >>> with fx.execution.use("eager"):
    ...     params, _ = fx.step(tx, params, tx.init(params), params)
    >>> params
    {'w': tensor([0.9000, 0.9000, 0.9000])}

    Inside ``torch.compile`` the compiler decides, and this has no effect.

    Raises:
        ValueError: there is no executor of this name; or, at the call, it cannot run these leaves.
    """
    if name not in EXECUTORS:
        raise ValueError(f"there is no executor {name!r}; choose one of {', '.join(sorted(EXECUTORS))}.")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def select(rule: Any, leaves: Leaves, scalars: Any) -> Choice:
    """The executor for leaves that share device, layout, dtypes and scalars."""
    if leaves.grads[0].is_sparse:
        return Choice(sparse, "sparse gradients: the elements that are there")
    if torch.compiler.is_compiling():
        return Choice(eager, "torch.compile fuses it")
    symbolic = _symbolic(leaves, scalars)
    forced = _forced.get()
    if forced is not None:
        executor = EXECUTORS[forced]
        why_not = executor.refusal(rule, leaves) or (symbolic if executor is not eager else None)
        if why_not:
            raise ValueError(f"execution.use({executor.name!r}): this executor cannot run these leaves: {why_not}.")
        return Choice(executor, "forced by execution.use")
    if symbolic:
        return Choice(eager, symbolic)
    reasons = []
    for executor in EXECUTORS.values():
        why_not = executor.refusal(rule, leaves) or executor.drawback(leaves)
        if why_not is None:
            break
        reasons.append(f"not {executor.name}: {why_not}")
    return Choice(executor, "; ".join(reasons) or "many small leaves, one call for all")


def _symbolic(leaves: Leaves, scalars: Any) -> str | None:
    """What makes the leaves more than their values, so that only the reference will do."""
    if modes.tracing():
        return "inside a torch.func transform or a tracer"
    if not torch.is_grad_enabled():
        return None
    tensors = [t for row in leaves.rows() for t in row]
    tensors += [s for s in scalars if isinstance(s, torch.Tensor)]
    return "differentiated by autograd" if modes.differentiated(*tensors) else None
