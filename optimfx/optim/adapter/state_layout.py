"""Lays out the state of a transformation under the parameters, as torch keeps state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import optree
import torch
from optree import PyTreeSpec
from torch import Tensor

from optimfx.combinators.inject import InjectHyperparamsState
from optimfx.core import State, dynamo, tracing
from optimfx.core.tree import LEAF_TYPES, NAMESPACE
from optimfx.optim.adapter.settings import Group

Rows = Sequence[dict[str, Any]]
"""The entry of the state for each parameter of a group."""
IN_GROUP = -1
"""The row of a hyperparameter."""


class StateLayout(NamedTuple):
    """How the state of a group is built, and where its leaves are kept.

    A list as long as the group has an entry for each parameter, which is stored under it. State that all parameters
    share is stored under each of them, so that it survives sharding. Injected hyperparameters live in the group. To
    find all this out takes as long as a step of many small parameters.
    """

    nodes: list[Any]  # columns, shared entries, and injected hyperparameters
    tree: State  # a state, with numbers for its nodes
    spec: PyTreeSpec  # its structure
    places: list[tuple[int, str]]  # for each leaf: its row (the first if all share it), and its key there
    common: set[str]  # the keys of what all share
    hyper: dict[str, Hyperparam]

    @classmethod
    def from_state(cls, state: State, size: int) -> StateLayout:
        """Return the form of a state for so many parameters."""
        nodes, spec = nodes_of(state, size)
        form = cls([], optree.tree_unflatten(spec, range(len(nodes))), spec, [], set(), {})
        for accessor, node in zip(spec.accessors(), nodes):
            path = [getattr(entry, "field", entry.entry) for entry in accessor]
            name = ".".join(map(str, path))
            injected = [i for i, entry in enumerate(accessor) if entry.type is InjectHyperparamsState]
            if type(node) is list and len(node) == size:
                entries = [Entry.of(entry, name) for entry in node]
                form.places.extend((i, each) for i, entry in enumerate(entries) for each in entry.names)
                form.nodes.append(Column.of(name, entries))
            elif injected and path[injected[-1]] == "hyperparams":
                form.places.append((IN_GROUP, name))
                form.hyper[name] = Hyperparam(node, *path[injected[-1] + 1 :])
                form.nodes.append(form.hyper[name])
            else:
                form.places.append((0, name))
                form.common.add(name)
                form.nodes.append(SharedColumn(name))
        return form

    @property
    def structure(self) -> PyTreeSpec:
        """That of the state."""
        return _structure(self.tree, self.spec)

    def fit(self, new: Sequence[Any], rows: Rows, *, keep_dtype: bool) -> None:
        """Bring rows that were loaded to the devices and dtypes of a new state's leaves; an empty one stays so.

        Raises:
            ValueError: a row lacks a leaf.
        """
        for (i, name), leaf in zip(self.places, new):
            for row in self.rows_holding(i, name, rows) if i != IN_GROUP else ():
                if row and name not in row:
                    raise ValueError(
                        f"the checkpoint has no {name!r} for a parameter, which this transformation keeps, but "
                        f"{', '.join(map(repr, row))}: it was saved by another transformation."
                    )
                if row and isinstance(leaf, Tensor):
                    row[name] = row[name].to(leaf.device, row[name].dtype if keep_dtype else leaf.dtype)

    def begin(self, new: Sequence[Any], rows: Rows, group: Group) -> None:
        """Fill missing entries of the rows from a new state; leaves that are shared in it are shared again."""
        # Up to 2.12, torch.compile knows no id of a tensor that was made in the graph.
        times = Counter(() if torch.compiler.is_compiling() else map(id, new))
        known: dict[Any, Any] = {}
        unknown = {hyper.key for hyper in self.hyper.values()} - set(group)
        for (i, name), leaf in zip(self.places, new):
            if i == IN_GROUP:
                if self.hyper[name].key in unknown:
                    self.hyper[name].write(group, leaf)
                continue
            holders = self.rows_holding(i, name, rows)
            kept = next((row[name] for row in holders if name in row), leaf)
            if times and times[id(leaf)] > 1:
                kept = known.setdefault((id(leaf), tracing.read_number(kept)), kept)
            for row in holders:
                row[name] = kept

    def holds(self, nodes: Sequence[Any]) -> bool:
        """Whether the entries of the columns are built as they were."""
        return all(
            [not isinstance(node, Column) or node.is_built_like(value) for node, value in zip(self.nodes, nodes)]
        )

    def read(self, rows: Rows, group: Group) -> list[Any]:
        """Read the nodes of the state, in order: columns, and what is common.

        Raises:
            KeyError: one of them has not begun.
        """
        return [node.read(rows, group) for node in self.nodes]

    def write_back(self, before: Sequence[Any], after: Sequence[Any], rows: Rows, group: Group) -> None:
        """Put what a step has replaced, and not written in place, where it belongs."""
        for node, old, new in zip(self.nodes, before, after):
            node.write_back(old, new, rows, group)

    def rows_holding(self, i: int, name: str, rows: Rows) -> Rows:
        """Return the rows that have a leaf."""
        return rows if name in self.common else rows[i : i + 1]


def nodes_of(state: State, size: int) -> tuple[list[Any], PyTreeSpec]:
    """Divide a state into columns, lists as long as the group, and what is in none; say how it is built of them."""
    return optree.tree_flatten(state, lambda node: type(node) is list and len(node) == size, namespace=NAMESPACE)


def _structure(tree: Any, spec: PyTreeSpec) -> PyTreeSpec:
    """Return the structure of a tree, which is known but in a graph: torch.compile has structures of its own."""
    if not torch.compiler.is_compiling():
        return spec
    dynamo.teach()
    return optree.tree_structure(tree, namespace=NAMESPACE)


class Entry(NamedTuple):
    """The entry of a column for one parameter."""

    tree: Any  # with numbers for its leaves
    spec: PyTreeSpec  # its structure
    names: list[str]  # what its leaves are kept as

    @classmethod
    def of(cls, entry: Any, name: str) -> Entry:
        """Describe the entries of a column of this name."""
        leaves, spec = optree.tree_flatten(entry, namespace=NAMESPACE)
        names = [".".join(map(str, (name, *rest))) for rest in spec.paths()]
        return cls(optree.tree_unflatten(spec, range(len(leaves))), spec, names)

    def read(self, row: dict[str, Any]) -> Any:
        return optree.tree_unflatten(_structure(self.tree, self.spec), [row[name] for name in self.names])


class Column(NamedTuple):
    """An entry of each parameter."""

    name: str
    places: list[int] | None  # indices of those that have one, if it is a single leaf and not all have it
    entries: list[Entry] | None  # if they are not all single leaves, or nothing

    @classmethod
    def of(cls, name: str, entries: list[Entry]) -> Column:
        """Make a column of such entries."""
        if any(entry.names != [name] and (entry.names or entry.tree != ()) for entry in entries):
            return cls(name, None, entries)
        places = [i for i, entry in enumerate(entries) if entry.names]
        return cls(name, None if len(places) == len(entries) else places, None)

    def read(self, rows: Rows, group: Group) -> list[Any]:
        if self.entries is not None:
            return [entry.read(row) for row, entry in zip(rows, self.entries)]
        name = self.name
        if self.places is None:
            return [row[name] for row in rows]
        column: list[Any] = [()] * len(rows)
        for i in self.places:
            column[i] = rows[i][name]
        return column

    def is_built_like(self, column: list[Any]) -> bool:
        """Whether the entries of another column are built as this one's."""
        if self.entries is not None:
            structures = [optree.tree_structure(x, namespace=NAMESPACE) for x in column]
            return structures == [_structure(entry.tree, entry.spec) for entry in self.entries]
        if self.places is None:
            return LEAF_TYPES.issuperset(map(type, column))
        return [i for i, entry in enumerate(column) if type(entry) in LEAF_TYPES] == self.places

    def write_back(self, old: list[Any], new: list[Any], rows: Rows, group: Group) -> None:
        if old is not None and all(map(is_, old, new)):
            return
        if self.entries is not None:
            for row, x, entry in zip(rows, new, self.entries):
                row.update(zip(entry.names, optree.tree_leaves(x, namespace=NAMESPACE)))
            return
        for i in range(len(rows)) if self.places is None else self.places:
            rows[i][self.name] = new[i]


class SharedColumn(NamedTuple):
    """The entries that belong to all parameters."""

    name: str

    def read(self, rows: Rows, group: Group) -> Any:
        return rows[0][self.name]

    def write_back(self, old: Any, new: Any, rows: Rows, group: Group) -> None:
        for row in rows if old is not new else ():
            row[self.name] = new


class Hyperparam(NamedTuple):
    """An injected hyperparameter."""

    like: Tensor
    key: str  # of the group
    place: int | None = None  # in the group's value, if that is a tuple

    def read(self, rows: Rows, group: Group) -> Tensor:
        """Read the group's number as the state has it."""
        value = group[self.key] if self.place is None else group[self.key][self.place]
        # Dynamo would bake the number in as_tensor in, and recompile for another.
        return value.to(self.like) if isinstance(value, Tensor) else torch.full_like(self.like, value)

    def write_back(self, old: Tensor, new: Tensor, rows: Rows, group: Group) -> None:
        if old is not new:
            self.write(group, new)

    def write(self, group: Group, value: Tensor) -> None:
        """Show the state's number in the group."""
        number = value.item()
        if self.place is None:
            group[self.key] = number
        else:
            others = tuple(group.get(self.key, ()))
            group[self.key] = (*others[: self.place], number, *others[self.place + 1 :])
