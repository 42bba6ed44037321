"""Reads and writes the scalars that torch keeps for every parameter, as one where they lie end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import tracing
from optimfx.execution.memory.packing import PackedView, end_to_end


def to_exact_tensor(value: Any) -> Tensor:
    """Make a tensor of a number with all its digits, on the host, whatever the default dtype and device are."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


class ScalarColumn:
    """One scalar of each of some parameters, such as the number of steps taken.

    Args:
        column: the scalars.
        as_vector: whether to have them as a vector, though a tracer hides where they lie.
        line: what found scalars like these before; without it, they may be anything.
    """

    def __init__(self, column: Sequence[Any], *, as_vector: bool = False, line: PackedView | None = None) -> None:
        self.column = column
        self.as_vector = as_vector
        self.tracing = line is None and tracing.active()
        if line is not None:
            self.packed = line.through(column)
        else:
            plain = not self.tracing and {*map(type, column)} == {Tensor} and not tracing.requires_autograd(*column)
            self.packed = end_to_end(column, range(len(column) + 1)) if plain else None

    @property
    def vector(self) -> Tensor | None:
        """A vector of all, if they are on an accelerator or ``as_vector`` asks for it.

        A single one stays a scalar: with a tensor, the dtype of a vector counts, and that of a scalar does not.
        """
        if len(self.column) == 1 or not (self.as_vector or self._are_apart()):
            return None
        return torch.stack(list(self.column)) if self.packed is None else self.packed

    def _are_apart(self) -> bool:
        """Whether all are on one device that is not the host."""
        if self.packed is not None:
            return not self.packed.is_cpu
        if self.tracing or {*map(type, self.column)} != {Tensor} or self.column[0].is_cpu:
            return False
        return len({scalar.device for scalar in self.column}) == 1

    def read(self) -> list[Any]:
        """Each as a number, where it is on the host."""
        line = self.packed
        return tracing.read_numbers(self.column) if line is None or not line.is_cpu else line.tolist()

    def check(self, name: str) -> None:
        """Refuse, in torch's words, scalars that are not tensors and could not be written."""
        if self.packed is None and not all(isinstance(scalar, Tensor) for scalar in self.column):
            raise RuntimeError(f"API has changed, `{name}` argument must contain a list of singleton tensors")

    def write(self, value: Any) -> None:
        """Write the same value to all."""
        if self.packed is None:
            torch._foreach_copy_(list(self.column), list(to_exact_tensor(value).expand(len(self.column))))
        elif isinstance(value, Tensor):
            self.packed.copy_(value)
        else:
            self.packed.fill_(value)

    def advance(self, by: Any) -> None:
        """Add the number to every scalar."""
        if self.packed is None:
            torch._foreach_add_(list(self.column), by)
        else:
            self.packed.add_(by)
