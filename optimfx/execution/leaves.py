"""The leaves of one call, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

PLAIN = {torch.Tensor, torch.nn.Parameter, type(None)}
"""Torch's own types of tensors, and no tensor."""


class Leaves(NamedTuple):
    """Equal-length columns of tensors, a row for each leaf."""

    params: Sequence[Any]  # None where no parameters were given
    grads: Sequence[Any]  # None for a leaf that sits out
    slots: Sequence[Sequence[Any]]  # None for a slot that is not kept
    found: dict[Any, Any] | None = None  # by what found it; for leaves that are like ones before

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """``(param, grad, *slots)`` of each leaf."""
        return zip(self.params, self.grads, *self.slots)

    def columns(self) -> list[Sequence[Any]]:
        """The parameters, the gradients, and the slots."""
        return [self.params, self.grads, *self.slots]

    def known(self, find: Callable[[Leaves], Any]) -> Any:
        """What a function finds of these leaves, or has found of leaves like them."""
        if self.found is None:
            return find(self)
        if find not in self.found:
            self.found[find] = find(self)
        return self.found[find]

    @property
    def plain(self) -> bool:
        """Whether all are torch's own tensors, no subclasses with a behaviour of theirs."""
        return {*map(type, self.params), *map(type, self.grads)} <= PLAIN

    def take(self, indices: Iterable[int]) -> Leaves:
        """The rows at these places."""
        pick = list(indices)
        if len(pick) == len(self.grads):  # each is there once, in order
            return self
        return Leaves(
            [self.params[i] for i in pick],
            [self.grads[i] for i in pick],
            [[column[i] for i in pick] for column in self.slots],
        )


def misshapen(leaves: Leaves) -> dict[int, int]:
    """The slots that do not have the shapes of the leaves, and the place of the first that does not."""
    shapes = [None if grad is None else grad.shape for grad in leaves.grads]
    found = {}
    for k, column in enumerate(leaves.slots):
        pairs = enumerate(zip(column, shapes))
        place = next((i for i, (t, shape) in pairs if t is not None and shape not in (None, t.shape)), None)
        if place is not None:
            found[k] = place
    return found
