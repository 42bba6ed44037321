"""Where the state of a transformation is kept: under the parameters, as torch keeps state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress, count
from operator import is_not
from typing import Any, NamedTuple

import optree
import torch
from optree import PyTreeSpec
from torch import Tensor

from optimfx import modes
from optimfx.base import State
from optimfx.inject import InjectHyperparamsState
from optimfx.optim.live import Group
from optimfx.tree import NAMESPACE

Rows = Sequence[dict[str, Any]]
"""What is kept under each parameter of a group."""
IN_GROUP = -1
"""The row of a hyperparameter."""


class Form(NamedTuple):
    """How the state of a group is built, and where its leaves are kept.

    A list as long as the group has an entry for each parameter, which is kept under that one. What is in no such list
    belongs to all, and is kept under every one: so it goes wherever one of them goes. Injected hyperparameters are
    nowhere but in the group. To find all this out takes as long as a step of many small parameters.
    """

    tree: State  # a state, with numbers for its leaves
    spec: PyTreeSpec  # its structure
    places: list[tuple[int, str]]  # of each leaf: its row, the first one if it belongs to all, and its name there
    common: set[str]  # the names of what belongs to all
    hyper: dict[str, Hyperparam]

    @classmethod
    def of(cls, state: State, size: int) -> Form:
        """The form of a state for so many parameters."""
        tree = optree.tree_map(lambda _: 0, state, namespace=NAMESPACE)
        form = cls(tree, optree.tree_structure(tree, namespace=NAMESPACE), [], set(), {})

        def is_column(node: Any) -> bool:
            return type(node) is list and len(node) == size

        for accessor, node in zip(*optree.tree_flatten_with_accessor(state, is_column, namespace=NAMESPACE)[:2]):
            path = [getattr(entry, "field", entry.entry) for entry in accessor]
            name = ".".join(map(str, path))
            injected = [i for i, entry in enumerate(accessor) if entry.type is InjectHyperparamsState]
            if is_column(node):
                for i, entry in enumerate(node):
                    within = optree.tree_paths(entry, namespace=NAMESPACE)
                    form.places.extend((i, ".".join(map(str, (name, *rest)))) for rest in within)
            elif injected and path[injected[-1]] == "hyperparams":
                form.places.append((IN_GROUP, name))
                form.hyper[name] = Hyperparam(node, *path[injected[-1] + 1 :])
            else:
                form.places.append((0, name))
                form.common.add(name)
        return form

    @property
    def structure(self) -> PyTreeSpec:
        """That of the state; torch.compile has structures of its own."""
        return optree.tree_structure(self.tree, namespace=NAMESPACE) if torch.compiler.is_compiling() else self.spec

    def fit(self, new: Sequence[Any], rows: Rows, *, keep_dtype: bool) -> None:
        """Bring rows that were loaded to the devices and dtypes of a new state's leaves; an empty one stays so.

        Raises:
            ValueError: a row lacks a leaf.
        """
        for (i, name), leaf in zip(self.places, new):
            for row in self.holders(i, name, rows) if i != IN_GROUP else ():
                if row and name not in row:
                    raise ValueError(
                        f"the checkpoint has no {name!r} for a parameter, which this transformation keeps, but "
                        f"{', '.join(map(repr, row))}: it is of another transformation."
                    )
                if row and isinstance(leaf, Tensor):
                    row[name] = row[name].to(leaf.device, row[name].dtype if keep_dtype else leaf.dtype)

    def begin(self, new: Sequence[Any], rows: Rows, group: Group) -> None:
        """Give the rows what they lack of a new state's leaves; equal leaves that are one in it, are one again."""
        times = Counter(map(id, new))
        known: dict[Any, Any] = {}
        unknown = {hyper.key for hyper in self.hyper.values()} - set(group)
        for (i, name), leaf in zip(self.places, new):
            if i == IN_GROUP:
                if self.hyper[name].key in unknown:
                    self.hyper[name].write(group, leaf)
                continue
            holders = self.holders(i, name, rows)
            kept = next((row[name] for row in holders if name in row), leaf)
            if times[id(leaf)] > 1:
                kept = known.setdefault((id(leaf), modes.number(kept)), kept)
            for row in holders:
                row[name] = kept

    def leaves(self, rows: Rows, group: Group) -> list[Any]:
        """The leaves of the state, in order.

        Raises:
            KeyError: one of them has not begun.
        """
        rows = [*rows, {name: hyper.read(group) for name, hyper in self.hyper.items()}]
        return [rows[i][name] for i, name in self.places]

    def keep(self, before: Sequence[Any], after: Sequence[Any], rows: Rows, group: Group) -> None:
        """Put what a step has replaced, and not written in place, where it belongs."""
        for k in compress(count(), map(is_not, before, after)):
            i, name = self.places[k]
            if i == IN_GROUP:
                self.hyper[name].write(group, after[k])
            else:
                for row in self.holders(i, name, rows):
                    row[name] = after[k]

    def holders(self, i: int, name: str, rows: Rows) -> Rows:
        """The rows that have a leaf."""
        return rows if name in self.common else rows[i : i + 1]


class Hyperparam(NamedTuple):
    """An injected hyperparameter."""

    like: Tensor
    key: str  # of the group
    place: int | None = None  # in the group's value, if that is a tuple

    def read(self, group: Group) -> Tensor:
        """The group's number as the state has it."""
        value = group[self.key] if self.place is None else group[self.key][self.place]
        # Of a number, Dynamo would make a constant of as_tensor, and compile anew for another.
        return value.to(self.like) if isinstance(value, Tensor) else torch.full_like(self.like, value)

    def write(self, group: Group, value: Tensor) -> None:
        """Show the state's number in the group."""
        number = value.item()
        if self.place is None:
            group[self.key] = number
        else:
            others = tuple(group.get(self.key, ()))
            group[self.key] = (*others[: self.place], number, *others[self.place + 1 :])
