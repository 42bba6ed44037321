"""The leaves of one call, as columns of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch

from optimfx.core.types import Array, Column

Results: TypeAlias = tuple[Column, Sequence[Column]]
"""The outcome of a step of leaves: the results, and the new slots by column."""
PLAIN = {torch.Tensor, torch.nn.Parameter, type(None)}
"""Torch's own types of tensors, and no tensor."""


class Leaves(NamedTuple):
    """Equal-length columns of tensors, a row for each leaf."""

    params: Column  # None where no parameters were given
    grads: Column  # None for a leaf without a gradient
    slots: Sequence[Column]  # None for a slot that is not kept

    def rows(self) -> Iterator[tuple[Array, ...]]:
        """``(param, grad, *slots)`` of each leaf."""
        return zip(self.params, self.grads, *self.slots)

    def columns(self) -> list[Column]:
        """List the parameters, the gradients, and the slots."""
        return [self.params, self.grads, *self.slots]

    @property
    def plain(self) -> bool:
        """Whether all are plain tensors, not subclasses with a behaviour of their own."""
        return set(map(type, [*self.params, *self.grads])) <= PLAIN

    def take(self, indices: Iterable[int]) -> Leaves:
        """Take the rows at these places."""
        pick = list(indices)
        if len(pick) == len(self.grads):  # each index once, in order
            return self
        return Leaves(
            [self.params[i] for i in pick],
            [self.grads[i] for i in pick],
            [[column[i] for i in pick] for column in self.slots],
        )
