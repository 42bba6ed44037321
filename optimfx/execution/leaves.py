"""The leaves of one call, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor


class Leaves(NamedTuple):
    """Equal-length columns, a row for each leaf; all rows share device, dtypes and scalars."""

    params: Sequence[Tensor | None]
    grads: Sequence[Tensor]
    slots: Sequence[Sequence[Tensor | None]]

    def rows(self) -> Iterator[tuple[Tensor | None, ...]]:
        """``(param, grad, *slots)`` of each leaf."""
        return zip(self.params, self.grads, *self.slots)

    def take(self, indices: Iterable[int]) -> Leaves:
        """The rows at these places."""
        pick = list(indices)
        return Leaves(
            [self.params[i] for i in pick],
            [self.grads[i] for i in pick],
            [[column[i] for i in pick] for column in self.slots],
        )
