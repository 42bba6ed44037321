"""The interface of executors, and questions about leaves that several of them ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from optimfx.core import Locality, tracing
from optimfx.core.types import Value
from optimfx.execution.leaves import Leaves, Results
from optimfx.execution.step import Steps, flat_scalars, has_per_leaf_scalars

BoundStep: TypeAlias = Callable[[Steps, Sequence[Value], Leaves], Results]
"""Takes a step of leaves that are like those it was made for: of the steps, the numbers among their scalars, and the
leaves it makes the results and the new slots."""


class Executor(ABC):
    """Runs rules on leaves of one device, layout and dtypes.

    Attributes:
        name: what :func:`optimfx.execution.use` and :func:`optimfx.explain` call it.
        description: what is said of it where it is chosen.
        reads_scalars: whether it steps by the scalars that rules make of their hyperparameters; torch's own kernels
            take the hyperparameters.
        traceable: whether it runs leaves that a tracer, a transform or autograd follows.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    reads_scalars: ClassVar[bool] = True
    traceable: ClassVar[bool] = False

    @abstractmethod
    def unsupported_reason(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> str | None:
        """Why it cannot run these leaves; ``None`` if it can."""

    def slower_reason(self, leaves: Leaves) -> str | None:
        """Why another is better for these leaves, where this one was not asked for; ``None`` if none is."""
        return None

    @abstractmethod
    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        """Bind the rules to leaves like these, at these steps and at those with other numbers."""


class Unplanned(Executor):
    """An executor that has nothing to prepare."""

    @abstractmethod
    def run(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> Results:
        """Run the rules: return the results, and the new slots by column."""

    def bind(self, steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> BoundStep:
        return lambda steps, numbers, leaves: self.run(steps, leaves, stepping=stepping, inplace=inplace)


def symbolic_reason(steps: Steps, leaves: Leaves) -> str | None:
    """Say what makes the leaves more than their values."""
    if tracing.active():
        return "inside a torch.func transform or a tracer"
    if not torch.is_grad_enabled():
        return None
    tensors = [t for row in leaves.rows() for t in row]
    tensors += [x for step in steps for x in flat_scalars(step.scalars) if isinstance(x, Tensor)]
    return "differentiated by autograd" if tracing.requires_autograd(*tensors) else None


def unlike_reason(steps: Steps, leaves: Leaves) -> str | None:
    """Why a rule cannot take what stands for several leaves, or for a part of one, for a leaf."""
    if not leaves.plain:
        return "tensor subclasses"
    return None if all(step.rule.elementwise for step in steps) else "the rule is not elementwise"


def unlisted_reason(steps: Steps, leaves: Leaves) -> str | None:
    """Why a rule cannot take a list of leaves for one."""
    return "each leaf has its own scalars" if has_per_leaf_scalars(steps) else unlike_reason(steps, leaves)


def uncut_reason(steps: Steps, leaves: Leaves) -> str | None:
    """Why leaves cannot be cut, joined and laid flat in a CPU's memory."""
    if leaves.grads[0].device.type != "cpu":
        return "not on a CPU"
    if any(step.rule.locality is Locality.POSITION for step in steps):
        return "the place of an element in its tensor matters"
    return unlike_reason(steps, leaves)
