"""Transformations side by side: each leaf has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from optimfx.combinators.identity import identity
from optimfx.core import (
    Description,
    GradientTransformation,
    Params,
    PyTree,
    State,
    check_transformation,
    state_class,
    tracing,
    tree,
)
from optimfx.core.lowering import Lowered, join
from optimfx.core.types import Key
from optimfx.execution import Lowering, lower, mask_tree

Mask: TypeAlias = PyTree | Callable[[Params], PyTree]
"""A tree of bools like the parameters (or a prefix of it), or a function from the parameters to one, which meets
``None`` at the leaves of others when it is inside of a partition."""
Labels: TypeAlias = PyTree | Callable[[Params], PyTree]
"""A tree of labels like the parameters (or a prefix of it), or a function from the parameters to one."""


MAX_CACHED = 16
"""Structures of trees for which a partition keeps the leaves of each label."""


@state_class
class PartitionState(NamedTuple):
    """The state of a partition."""

    inner_states: dict[Any, State]  # by label; () at the leaves of other labels


@dataclass(frozen=True, eq=False)
class Partition(Lowering):
    """The ``update`` of a partition: each transformation sees ``None`` at the leaves of the others."""

    transforms: dict[Any, GradientTransformation]
    labels: Labels
    name: str

    def init(self, params: Params) -> PartitionState:
        places = self._places(params)
        states = {label: tx.init(mask_tree(params, places[label])) for label, tx in self.transforms.items()}
        return PartitionState(states)

    def lower(self, reference: PyTree, state: State | None) -> Lowered:
        states = dict.fromkeys(self.transforms) if state is None else self._states(state)
        places = self._places(reference)
        parts = [lower(tx, reference, states[label], places[label]) for label, tx in self.transforms.items()]
        return join(parts, lambda after: PartitionState(dict(zip(self.transforms, after))))

    def description(self) -> Description:
        parts = [(str(label), tx) for label, tx in self.transforms.items()]
        return Description("masked", {}, parts[:1]) if self.name == "mask" else Description("partition", {}, parts)

    def _places(self, reference: PyTree) -> dict[Any, int]:
        """Return the leaves of each label, as bits. A function is asked at every step: it may look at anything."""
        if callable(self.labels) or tracing.active():
            return self._find_places(reference)
        leaves, key = tree.flatten(reference)
        known = _known_places.setdefault(self, {})
        asked = key, tuple([i for i, leaf in enumerate(leaves) if leaf is None])
        if asked not in known:
            if len(known) >= MAX_CACHED:
                known.clear()
            known[asked] = self._find_places(reference)
        return known[asked]

    def _find_places(self, reference: PyTree) -> dict[Any, int]:
        places = dict.fromkeys(self.transforms, 0)
        for i, label in enumerate(self._labels(reference)):
            if label in places:
                places[label] |= 1 << i
        return places

    def _states(self, state: State) -> dict[Any, State]:
        if not isinstance(state, PartitionState) or set(state.inner_states) != set(self.transforms):
            raise ValueError(
                f"the state of this transformation is a PartitionState for {list(self.transforms)}; got "
                f"{state!r:.200}. Give the state that init or the last update returned."
            )
        return state.inner_states

    def _labels(self, params: Params) -> list[Any]:
        """Return the label of each leaf."""
        given = self.labels(params) if callable(self.labels) else self.labels
        labels = tree.broadcast(given, params, self.name, "params")
        leaves, spec = tree.flatten(params)
        for i, (label, param) in enumerate(zip(labels, leaves)):
            if param is not None and label not in self.transforms:
                raise ValueError(
                    f"{tree.path(spec, i, self.name)} is {label!r}, for which there is no transform; it must be one of "
                    f"{list(self.transforms)}."
                )
        return labels


_known_places: WeakKeyDictionary[Partition, dict[Key, dict[Any, int]]] = WeakKeyDictionary()


def partition(transforms: Mapping[Any, GradientTransformation], labels: Labels) -> GradientTransformation:
    """Give each leaf to the transformation of its label.

    Args:
        transforms: a transformation for each label.
        labels: a tree of labels like the parameters, or a prefix of it (one label for a whole subtree), or a function
            from the parameters to either.

    Returns:
        A transformation with state :class:`PartitionState`.

    Raises:
        TypeError: what is given for a label is not a transformation.
        ValueError: a label has no transform, or the labels do not have the structure of the parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.partition({"fast": fx.sgd(lr=1.0), "slow": fx.sgd(lr=0.1)}, {"body": "slow", "head": "fast"})
    >>> params = {"body": [torch.ones(1), torch.ones(1)], "head": torch.ones(1)}
    >>> fx.step(tx, params, tx.init(params), params)[0]
    {'body': [tensor([0.9000]), tensor([0.9000])], 'head': tensor([0.])}
    """
    for label, tx in transforms.items():
        check_transformation(f"partition: {label!r}", tx)
    return Partition(dict(transforms), labels, "labels").as_transformation()


def masked(inner: GradientTransformation, mask: Mask) -> GradientTransformation:
    """Apply a transformation to some leaves, and hand the updates of the others on as they are.

    To freeze the others, use :func:`partition` with :func:`set_to_zero`.

    Args:
        inner: the transformation for the leaves where the mask is true.
        mask: a tree of bools like the parameters, or a prefix of it (one bool for a whole subtree), or a function from
            the parameters to either.

    Returns:
        A transformation with state :class:`PartitionState`, the inner state under ``True``.

    Raises:
        TypeError: ``inner`` is not a transformation.
        ValueError: the mask holds something else than bools, or does not have the structure of the parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.masked(fx.add_decayed_weights(0.1), lambda params: {k: p.dim() > 1 for k, p in params.items()})
    >>> params = {"w": torch.ones(1, 2), "b": torch.ones(2)}
    >>> grads = {"w": torch.zeros(1, 2), "b": torch.zeros(2)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([[0.1000, 0.1000]]), 'b': tensor([0., 0.])}
    """
    check_transformation("masked: inner", inner)
    return Partition({True: inner, False: identity()}, mask, "mask").as_transformation()


def is_matrix(params: Params) -> PyTree:
    """Which leaves have at least two dimensions: a mask, or the labels of a partition.

    Args:
        params: a tree of tensors.

    >>> import torch, optimfx as fx
    >>> params = {"w": torch.ones(3, 2), "b": torch.ones(2)}
    >>> fx.is_matrix(params)
    {'w': True, 'b': False}
    >>> tx = fx.partition({True: fx.muon(lr=0.02), False: fx.adamw(lr=3e-4)}, fx.is_matrix)
    >>> params, state = fx.step(tx, params, tx.init(params), params)

    An embedding is a matrix too, but no linear map: ``lambda params: {**fx.is_matrix(params), "embed": False}``.
    """
    leaves, spec = tree.flatten(params)
    return tree.unflatten(spec, [leaf is not None and leaf.dim() > 1 for leaf in leaves])
