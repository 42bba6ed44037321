"""The types that the public functions are written in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

PyTree: TypeAlias = Any
"""Any nesting of dicts, lists, tuples, NamedTuples and registered classes."""
Params: TypeAlias = PyTree
"""A pytree of floating-point or complex tensors; ``None`` where there is no parameter."""
Updates: TypeAlias = PyTree
"""Gradients, or gradients that links have transformed, structured like the parameters; ``None`` skips a leaf."""
State: TypeAlias = PyTree
"""The memory of a transformation: NamedTuples of pytrees, made by ``init``."""
ParamsT = TypeVar("ParamsT")
UpdatesT = TypeVar("UpdatesT")
StateT = TypeVar("StateT")
Array: TypeAlias = Any
"""A tensor as a rule sees it: one, a list of them, or what a tracer, a transform or a tape has in place of one.

Only Python's operators and the words of :mod:`optimfx.ops` are used on it.
"""
Column: TypeAlias = Sequence[Array]
"""An entry for each leaf: a tensor, its stand-in, or ``None``."""
Scalar: TypeAlias = float | Tensor
"""A Python number or a 0-d tensor."""
Schedule: TypeAlias = Callable[[Scalar], Scalar]
"""A value for each step; the first update asks for step 0."""
Hyper: TypeAlias = float | Tensor | Schedule
"""A hyperparameter: a number, a 0-d tensor (``vmap`` and gradients reach it), or a schedule."""
Value: TypeAlias = Any
"""The value of a hyperparameter or scalar at a step: a number, a 0-d tensor, a vector, a flag, or a tuple of these."""
Key: TypeAlias = Hashable
"""A hashable value under which a plan or a group of leaves is kept."""
DType: TypeAlias = torch.dtype
BFLOAT16 = torch.bfloat16
FLOAT32 = torch.float32


class StatefulSchedule(Protocol):
    """A hyperparameter that is computed from a state of its own; all methods take the further arguments of a step."""

    def init(self) -> State:
        """Return the state before the first step."""

    def update(self, state: State, **extra: Any) -> State:
        """Return the state after a step."""

    def __call__(self, state: State, **extra: Any) -> Scalar:
        """Return the value for a step; without further arguments where a transformation is begun."""
