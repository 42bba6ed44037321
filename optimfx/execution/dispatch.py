"""Chooses the executor of a group of leaves, and says why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from optimfx.core import tracing, tree
from optimfx.core.rule import Rule
from optimfx.core.types import Column, Value
from optimfx.execution.executors.aten import ATen
from optimfx.execution.executors.base import Executor, symbolic_reason
from optimfx.execution.executors.batched import Batched
from optimfx.execution.executors.blocked import Blocked
from optimfx.execution.executors.compiled import Compiled
from optimfx.execution.executors.custom_op.traced import is_worth_an_op
from optimfx.execution.executors.eager import Eager
from optimfx.execution.executors.foreach import Foreach
from optimfx.execution.executors.sparse import Sparse
from optimfx.execution.executors.triton import Triton, norm
from optimfx.execution.executors.triton.runtime import build
from optimfx.execution.leaves import Leaves
from optimfx.execution.step import Steps

ExecutorName: TypeAlias = Literal["triton", "aten", "compiled", "blocked", "foreach", "batched", "eager"]
"""In order of preference."""
EXECUTORS: dict[str, Executor] = {
    executor.name: executor for executor in (Triton(), ATen(), Compiled(), Blocked(), Foreach(), Batched(), Eager())
}

FUSED: tuple[ExecutorName, ...] = get_args(ExecutorName)
"""The executors that ``fused=True`` asks for: the first that can, though compiling takes seconds."""
FUSED_CHAIN: tuple[ExecutorName, ...] = tuple([name for name in FUSED if name != "aten"])
"""The same for a chain: torch's kernels take one algorithm, not what stands before it."""
FOREACH = ("foreach",)
"""The executors that ``foreach=True`` asks for."""
LOOP = ("blocked", "eager")
"""The executors that ``foreach=False`` asks for: leaf by leaf, as torch rounds; the blocked one gives the same bits."""

UNREPORTED_REASONS = ("not on a CPU", "not on a GPU")
"""Reasons that are left out of explanations."""

_SPARSE = Sparse()
_forced: ContextVar[tuple[str, ...]] = ContextVar("forced", default=())
"""The executors that the user asked for."""


class Choice(NamedTuple):
    """The chosen executor, and why those before it in the order of preference were passed over."""

    executor: Executor
    reason: str


@contextmanager
def use(*names: ExecutorName) -> Iterator[None]:
    """Force an executor for the calls inside.

    Args:
        names: of ``aten``, ``batched``, ``blocked``, ``compiled``, ``eager``, ``foreach`` and ``triton``, in order of
            preference: leaves are run by the first that can.

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
    token = _forced.set(names)
    try:
        yield
    finally:
        _forced.reset(token)


def requested_executors() -> tuple[str, ...]:
    """Return the executors that the user asked for; in a graph, the compiler decides."""
    return () if torch.compiler.is_compiling() else _forced.get()


def dispatch_global_norm(grads: Column) -> Tensor:
    """Measure the 2-norm of all gradients, by the kernels of the executor that steps them if it has any.

    They have no derivative; a graph takes them for one node.
    """
    dense = [grad for grad in grads if grad is not None]
    if not dense or tracing.requires_autograd(*dense):
        return tree.norm_of_leaves(dense)
    measurable = has_kernels(dense) and not norm.unsupported_reason(dense)
    if torch.compiler.is_compiling() and not (tracing.forward_mode() or tracing.in_derivative()):
        if measurable or is_worth_an_op(dense):
            measured: Tensor = torch.ops.optimfx.global_norm(dense)
            return measured
    elif measurable and not tracing.active():
        return norm.global_norm(dense)
    return tree.norm_of_leaves(dense)


def dispatch_totals(name: str, rule: Rule, leaves: Leaves, hyper: Sequence[Value]) -> Tensor | None:
    """Add up what a rule measures of these leaves, by the kernels of the executor that steps them if it has any."""
    if tracing.active() or not has_kernels(leaves.grads):
        return None
    if tracing.requires_autograd(*[t for column in leaves.columns() for t in column]):
        return None
    return norm.totals(name, rule, leaves, hyper)


def has_kernels(leaves: Column) -> bool:
    """Whether Triton is the preferred executor for such leaves."""
    first = next((leaf for leaf in leaves if leaf is not None), None)
    if first is None or not build.serves(first.device):
        return False
    names = () if torch.compiler.is_compiling() else _forced.get()
    return "triton" in names if names else tracing.active() or not build.INTERPRETED


def select(
    steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool, names: tuple[str, ...] | None = None
) -> Choice:
    """Choose the executor for leaves that take the same steps and share device, layout and dtypes.

    Args:
        steps: what the leaves take.
        leaves: the leaves.
        stepping: whether the results are parameters.
        inplace: whether they are written where they come from.
        names: the executors that are asked for, in order of preference; ``None`` for those of :func:`use`.

    Raises:
        ValueError: none of those that are asked for can run these leaves.
    """
    if leaves.grads[0].is_sparse:
        return Choice(_SPARSE, _SPARSE.description)
    names = requested_executors() if names is None else names
    symbolic = symbolic_reason(steps, leaves)
    reasons: list[str] = []
    for executor in map(EXECUTORS.__getitem__, names or EXECUTORS):
        reason = None if executor.traceable else symbolic
        if not (names or symbolic):
            reason = executor.slower_reason(leaves)
        reason = reason or executor.unsupported_reason(steps, leaves, stepping=stepping, inplace=inplace)
        if reason is None:
            chosen = "forced by execution.use" if names else symbolic or executor.description
            return Choice(executor, "".join([chosen, *reasons]))
        if reason not in UNREPORTED_REASONS and reason is not symbolic:
            reasons.append(f"; not {executor.name}: {reason}")
    raise ValueError(f"execution.use({executor.name!r}): this executor cannot run these leaves: {reason}.")
