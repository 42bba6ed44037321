"""The guard of a plan: it checks that the metadata of tensors is unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from optimfx.core.types import Column
from optimfx.execution.leaves import PLAIN


class Guard:
    """Checks in one call whether tensors equal these in all but their values and addresses."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.count = len(tensors)
        self.aliases = _aliases(tensors)
        self.guards = TensorGuards(*self._each(tensors), dynamic_dims_sizes=None, dynamic_dims_strides=None)

    def admits(self, tensors: Column) -> bool:
        """Whether the tensors pass."""
        if len(tensors) != self.count:
            return False
        if self.aliases is None:  # the guard checks this itself
            return self.guards.check(*tensors)
        return _aliases(tensors) == self.aliases and self.guards.check(*self._each(tensors))

    def _each(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Each tensor once."""
        return tensors if self.aliases is None else [t for i, t in enumerate(tensors) if self.aliases[i] == i]

    @staticmethod
    def can_see(tensors: Iterable[Any]) -> bool:
        """Whether the check covers all metadata of these tensors."""
        return all(type(t) in TENSORS and t.layout is torch.strided for t in tensors)


TENSORS = PLAIN - {type(None)}


def _aliases(tensors: Column) -> list[int] | None:
    """Return for each tensor its first place in the list; ``None`` if each is there once."""
    first: dict[int, int] = {}
    places = [first.setdefault(id(t), i) for i, t in enumerate(tensors)]
    return None if len(first) == len(places) else places
