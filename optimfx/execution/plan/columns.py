"""Converts trees of parameters, updates and state to columns of leaves, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.core import Locality, tracing, tree
from optimfx.core.link import Link
from optimfx.core.lowering import Call
from optimfx.core.types import Array, Column, Key, PyTree, Value
from optimfx.execution.leaves import PLAIN, Leaves

ABSENT = ()
"""Placeholder for a slot that is not kept: a tree without leaves, as a function under torch.vmap cannot return None."""


def state_of(link: Link, spec: tree.Structure, columns: Sequence[Column]) -> PyTree:
    """Make a state of the columns; a slot that no leaf keeps is ``ABSENT`` as a whole."""
    trees = []
    for column in columns:
        kept = any(slot is not None for slot in column)
        leaves = [ABSENT if slot is None else slot for slot in column]
        trees.append(tree.unflatten(spec, leaves) if kept else ABSENT)
    return link.state_type(*trees)


def check_state(name: str, kind: type[Any], state: PyTree) -> None:
    """Refuse a state of another transformation."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{name}: the state must be of type {kind.__name__}; got {type(state).__name__}. Give the state that init "
            f"or the last update returned."
        )


class Columns(NamedTuple):
    """The arguments of a step as columns, with an entry for each leaf."""

    leaves: Leaves
    shared: Sequence[Sequence[Column]]  # for each link, the step count, then the scalars that it carries
    spec: tree.Structure  # structure of the parameters, or of the updates without any
    has_sparse: bool
    places: Sequence[int] | None = None  # indices of these leaves in the trees; None for all

    @classmethod
    def of(cls, calls: Sequence[Call], updates: PyTree, params: PyTree | None) -> Columns:
        """Trees as columns, checked against each other.

        Raises:
            ValueError, TypeError: the trees do not fit together.
        """
        given, grads, spec = _leaves_of(updates, params)
        like = "updates" if params is None else "params"
        links: list[Array] = [call.update for call in calls]
        mine = [grads if call.places is None else mask_column(grads, call.places) for call in calls]
        pairs = [_columns_of(link, call.state, own, spec, like) for link, call, own in zip(links, calls, mine)]
        slots = [column for _, own in pairs for column in own]
        _check_shapes(links, Leaves(given, grads, slots), mine, spec)
        has_sparse = any([grad is not None and grad.layout is not torch.strided for grad in grads])
        return cls(Leaves(given, grads, slots), [own for own, _ in pairs], spec, has_sparse)

    def path(self, i: int, name: str) -> str:
        """How a user would write one of these leaves."""
        return tree.path(self.spec, i if self.places is None else self.places[i], name)

    def with_grads(self, grads: Column) -> Columns:
        """Return the same with other gradients."""
        return self._replace(leaves=self.leaves._replace(grads=grads))

    def trees(
        self, links: Sequence[Link], results: Column, after: Sequence[Sequence[Column]]
    ) -> tuple[PyTree, list[PyTree]]:
        """Build trees of the results, and of the columns of each link's new state."""
        states = [state_of(link, self.spec, own) for link, own in zip(links, after)]
        return tree.unflatten(self.spec, results), states


def mask_column(column: Column, places: int) -> list[Array]:
    """Put ``None`` in a column for leaves that are not at these places, given as bits."""
    return [x if places >> i & 1 else None for i, x in enumerate(column)]


def writable(grads: Column) -> list[Array]:
    """Gradients that can be written over: not one whose elements share memory, nor one that stands for two leaves."""
    seen: set[Key] = set()
    own = []
    in_trace = tracing.active()
    for grad in grads:
        if grad is not None and grad.layout is torch.strided:
            # Traced tensors have no address, and a compiler would bake in an ``id``.
            place = grad if in_trace else grad.data_ptr()
            if 0 in grad.stride() or place in seen:
                grad = grad.clone(memory_format=torch.contiguous_format)
            elif in_trace or place:  # an empty tensor has no address
                seen.add(place)
        own.append(grad)
    return own


def _leaves_of(updates: PyTree, params: PyTree | None) -> tuple[list[Array], list[Array], tree.Structure]:
    """Return the parameters and updates as columns, checked against each other."""
    reference, spec = tree.flatten(updates if params is None else params)
    given = [None] * len(reference) if params is None else reference
    grads = reference if params is None else tree.flatten_as(spec, updates, "updates", "params")
    if tracing.active() or not _trivially_match(reference, grads):
        for i, param, grad in zip(range(len(grads)), given, grads):
            if grad is None:
                continue
            if params is None:
                tree.check_leaf(grad, spec, i, "updates")
            else:
                tree.check_counterpart(param, grad, spec, i, ("params", "updates"))
    return given, grads, spec


def _check_shapes(links: Sequence[Link], leaves: Leaves, grads: Sequence[Column], spec: tree.Structure) -> None:
    """Refuse slots of other shapes than the gradients that each link sees: a kernel would write beside them."""
    names = [(link, own, name) for link, own in zip(links, grads) for name in link.rule.slots]
    for (link, own, name), column in zip(names, leaves.slots):
        if not (link.rule.elementwise or link.rule.locality is Locality.NORM):
            continue
        for i, slot, grad in zip(range(len(own)), column, own):
            if slot is not None and grad is not None and slot.shape != grad.shape:
                raise ValueError(
                    f"{tree.path(spec, i, f'state.{name}')} has shape {tuple(slot.shape)}, but "
                    f"{tree.path(spec, i, 'updates')} has shape {tuple(grad.shape)}: give the state that "
                    f"{link.name}'s init makes for these parameters."
                )


def _trivially_match(params: Column, grads: Column) -> bool:
    """Whether all are plain tensors of the same shapes: a quick check of thousands."""
    if not set(map(type, [*params, *grads])) <= PLAIN - {type(None)}:
        return False
    real = all(dtype.is_floating_point for dtype in {t.dtype for t in (*params, *grads)})
    return real and [p.shape for p in params] == [g.shape for g in grads]


def _columns_of(
    link: Link, state: PyTree, grads: Column, spec: tree.Structure, like: str
) -> tuple[list[list[Array]], list[list[Array]]]:
    """Split a rule's state into what leaves share, and their slots, as columns with the structure of ``like``."""
    check_state(link.name, link.state_type, state)
    columns = []
    for field, slots in zip(state._fields, state):
        name = f"state.{field}"
        absent = _absent(slots)
        column = [None] * len(grads) if absent else _drop_absent(tree.flatten_as(spec, slots, name, like))
        columns.append(column)
        # A slot may be absent as a whole, which _check_slots judges; a rule that is not elementwise may keep other
        # slots for some leaves than for others; the count is always there.
        is_needed = name == "state.step" or (link.rule.elementwise and not absent)
        if is_needed and type(None) in set(map(type, column)):
            _check_present(column, grads, spec, name)
    _check_slots(link, state)
    return columns[: link.num_shared_fields], columns[link.num_shared_fields :]


def _drop_absent(column: list[Array]) -> list[Array]:
    """Put ``None`` in a column for what is absent."""
    return [None if _absent(entry) else entry for entry in column] if tuple in set(map(type, column)) else column


def _check_present(column: Column, grads: Column, spec: tree.Structure, name: str) -> None:
    for i, (slot, grad) in enumerate(zip(column, grads)):
        if slot is None and grad is not None:
            raise ValueError(
                f"{tree.path(spec, i, name)} is missing, but {tree.path(spec, i, 'updates')} is a tensor; "
                f"the state must come from init on parameters that include this leaf."
            )


def active_slots(link: Link, hyper: Mapping[str, Value]) -> list[str]:
    """Return the slots that a parameter has with these hyperparameters, where they do not depend on its shape."""
    if not link.rule.elementwise:
        return []
    given = {name: hyper[name] for name in link.rule.init_names}
    device = next((x.device for x in given.values() if isinstance(x, Tensor)), torch.device("cpu"))
    slots = link.rule.init(torch.empty(0, device=device), **given)
    return [name for name, slot in zip(link.rule.slots, slots) if slot is not None]


def _check_slots(link: Link, state: PyTree) -> None:
    """Refuse a state that was made without a slot that the hyperparameters now need."""
    if not any(_absent(slot) for slot in state[link.num_shared_fields :]) or _absent(state[0]):
        return
    for name in active_slots(link, link.hyper):
        if _absent(getattr(state, name)):
            raise ValueError(
                f"state.{name} is missing, which {link.name} keeps with these hyperparameters: the state was begun "
                f"with others. Begin a new one with init(params)."
            )


def _absent(entry: Array) -> bool:
    return isinstance(entry, tuple) and len(entry) == 0  # Dynamo cannot trace `not` of a tuple of tensors
