"""Which executor runs a group of leaves, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx import modes, tree
from optimfx.execution import aten, blocked, compiled, eager, foreach, sparse, triton
from optimfx.execution.hyper import Steps, flat_scalars
from optimfx.execution.leaves import Leaves
from optimfx.execution.triton import build, norm, traced

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


def forced() -> tuple[str, ...]:
    """The executors that the user asked for; in a graph, the compiler decides."""
    return () if torch.compiler.is_compiling() else _asked.get()


def norm_of(grads: Sequence[Any]) -> Tensor:
    """The 2-norm of all gradients, by the kernels of the executor that steps them if it has any.

    They have no derivative; a graph takes them for one node.
    """
    dense = [grad for grad in grads if grad is not None]
    if not has_kernels(dense) or norm.refusal(dense) or modes.differentiated(*dense):
        return tree.global_norm(grads)
    if torch.compiler.is_compiling() and not modes.forward_mode():
        measured: Tensor = torch.ops.optimfx.global_norm(dense)
        return measured
    return tree.global_norm(grads) if modes.tracing() else norm.global_norm(dense)


def has_kernels(leaves: Sequence[Any]) -> bool:
    """Whether kernels are what such leaves are stepped by, if they do not refuse."""
    first = next((leaf for leaf in leaves if leaf is not None), None)
    if first is None or not build.serves(first.device):
        return False
    names = () if torch.compiler.is_compiling() else _asked.get()
    return "triton" in names if names else modes.tracing() or not build.INTERPRETED


def select(steps: Steps, leaves: Leaves, stepping: bool, inplace: bool, names: tuple[str, ...] | None = None) -> Choice:
    """The executor for leaves that take the same steps and share device, layout and dtypes."""
    if leaves.grads[0].is_sparse:
        return Choice(sparse, "sparse gradients: the elements that are there")
    if torch.compiler.is_compiling():
        alone = traced.refusal(steps, leaves)
        return Choice(eager, "torch.compile fuses it") if alone else Choice(traced, traced.virtue)
    symbolic = _symbolic(leaves, steps)
    names = _asked.get() if names is None else names
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
    tensors += [x for step in steps for x in flat_scalars(step.scalars) if isinstance(x, Tensor)]
    return "differentiated by autograd" if modes.differentiated(*tensors) else None
