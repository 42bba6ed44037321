"""Which executor runs a group of leaves, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import NamedTuple

import torch

from optimfx import modes
from optimfx.execution import aten, blocked, compiled, eager, foreach, sparse, triton
from optimfx.execution.hyper import Steps
from optimfx.execution.leaves import Leaves
from optimfx.execution.triton import traced

EXECUTORS: dict[str, ModuleType] = {module.name: module for module in (triton, aten, compiled, blocked, foreach, eager)}
"""In order of preference. An executor is a module: ``name``, ``virtue``, ``refusal``, ``drawback``, ``run``."""

EVIDENT = ("not on a CPU", "not on a GPU")
"""Refusals that nobody has to be told of."""

_asked: ContextVar[tuple[str, ...]] = ContextVar("asked", default=())
"""The executors that the user asked for."""


class Choice(NamedTuple):
    """An executor, and why not one that stands before it."""

    executor: ModuleType
    reason: str


@contextmanager
def use(*names: str) -> Iterator[None]:
    """Force an executor for the calls inside.

    Args:
        names: of ``aten``, ``blocked``, ``compiled``, ``eager``, ``foreach`` and ``triton``, in order of preference:
            leaves are run by the first that can.

    >>> import torch, optimfx as fx
    >>> tx = fx.sgd(lr=0.1)
    >>> params = {"w": torch.ones(3)}
    >>> with fx.execution.use("eager"):
    ...     params, _ = fx.step(tx, params, tx.init(params), params)
    >>> params
    {'w': tensor([0.9000, 0.9000, 0.9000])}

    Inside ``torch.compile`` the compiler decides, and this has no effect.

    Raises:
        ValueError: there is no executor of this name; or, at the call, none of them can run these leaves.
    """
    for name in names:
        if name not in EXECUTORS:
            raise ValueError(f"there is no executor {name!r}; choose one of {', '.join(sorted(EXECUTORS))}.")
    token = _asked.set(names)
    try:
        yield
    finally:
        _asked.reset(token)


def select(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool) -> Choice:
    """The executor for leaves that take the same steps and share device, layout and dtypes."""
    if leaves.grads[0].is_sparse:
        return Choice(sparse, "sparse gradients: the elements that are there")
    if torch.compiler.is_compiling():
        alone = traced.refusal(steps, leaves)
        return Choice(eager, "torch.compile fuses it") if alone else Choice(traced, traced.virtue)
    symbolic = _symbolic(leaves, steps)
    names = _asked.get()
    for executor in map(EXECUTORS.__getitem__, names):
        why_not = executor.refusal(steps, leaves, stepping, inplace) or (symbolic if executor is not eager else None)
        if why_not is None:
            return Choice(executor, "forced by execution.use")
        if executor.name == names[-1]:
            raise ValueError(f"execution.use({executor.name!r}): this executor cannot run these leaves: {why_not}.")
    if symbolic:
        return Choice(eager, symbolic) if traced.refusal(steps, leaves) else Choice(traced, traced.virtue)
    why_nots = []
    for executor in EXECUTORS.values():
        why_not = executor.drawback(leaves) or executor.refusal(steps, leaves, stepping, inplace)
        if why_not is None:
            break
        if why_not not in EVIDENT:
            why_nots.append(f"; not {executor.name}: {why_not}")
    return Choice(executor, executor.virtue + "".join(why_nots))


def _symbolic(leaves: Leaves, steps: Steps) -> str | None:
    """What makes the leaves more than their values, so that only the reference will do."""
    if modes.tracing():
        return "inside a torch.func transform or a tracer"
    if not torch.is_grad_enabled():
        return None
    tensors = [t for row in leaves.rows() for t in row]
    tensors += [s for step in steps for s in step.scalars if isinstance(s, torch.Tensor)]
    return "differentiated by autograd" if modes.differentiated(*tensors) else None
