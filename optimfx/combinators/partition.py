"""Transformations side by side: each leaf has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from optimfx.core import (
    GradientTransformation,
    Outline,
    Params,
    PyTree,
    Row,
    State,
    Stepper,
    Updates,
    check_transformation,
    state_class,
    tree,
)
from optimfx.core.stateless import identity
from optimfx.execution import check_link, explain_link, writable
from optimfx.update import run_link

Mask: TypeAlias = PyTree | Callable[[Params], PyTree]
"""A tree of bools like the parameters (or a prefix of it), or a function from the parameters to one, which meets
``None`` at the leaves of others when it is inside of a partition."""
Labels: TypeAlias = PyTree | Callable[[Params], PyTree]
"""A tree of labels like the parameters (or a prefix of it), or a function from the parameters to one."""


@state_class
class PartitionState(NamedTuple):
    """The state of a partition."""

    inner_states: dict[Any, State]  # by label; () at the leaves of other labels


@dataclass(frozen=True, eq=False)
class Partition(Stepper):
    """The ``update`` of a partition: each transformation sees ``None`` at the leaves of the others."""

    transforms: dict[Any, GradientTransformation]
    labels: Labels
    name: str

    def init(self, params: Params) -> PartitionState:
        mine = self._split(self._labels(params), params, params, "params")
        return PartitionState({label: tx.init(mine[label]) for label, tx in self.transforms.items()})

    def run(
        self, updates: Updates, state: State, params: Params | None, *, stepping: bool, inplace: bool, **extra: Any
    ) -> tuple[PyTree, PartitionState]:
        if inplace:
            self.check(updates, state, params)
            # What is written for one label must not be what another is yet to read.
            leaves, spec = tree.flatten(updates)
            updates = tree.unflatten(spec, writable(leaves))
        results = {
            label: run_link(*part, stepping=stepping, inplace=inplace, **extra)
            for label, part in self._parts(updates, state, params).items()
        }
        reference = updates if params is None else params
        spec = tree.flatten(reference)[1]
        columns = {label: spec.flatten_up_to(result) for label, (result, _) in results.items()}
        whole = [columns[label][i] if label in columns else None for i, label in enumerate(self._labels(reference))]
        return tree.unflatten(spec, whole), PartitionState({label: after for label, (_, after) in results.items()})

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        for part in self._parts(updates, state, params).values():
            check_link(*part)

    def explain(self, params: Params) -> list[Row]:
        mine = self._split(self._labels(params), params, params, "params")
        return [row for label, tx in self.transforms.items() for row in explain_link(tx, mine[label])]

    def outline(self) -> Outline:
        parts = [(str(label), tx) for label, tx in self.transforms.items()]
        return Outline("masked", {}, parts[:1]) if self.name == "mask" else Outline("partition", {}, parts)

    def _parts(self, updates: Updates, state: State, params: Params | None) -> dict[Any, tuple[Any, ...]]:
        """For each label ``(transform, updates, state, params)``."""
        if not isinstance(state, PartitionState) or set(state.inner_states) != set(self.transforms):
            raise ValueError(
                f"the state of this transformation is a PartitionState for {list(self.transforms)}; got "
                f"{state!r:.200}. Give the state that init or the last update returned."
            )
        reference = updates if params is None else params
        labels = self._labels(reference)
        given = self._split(labels, reference, updates, "updates")
        theirs = dict.fromkeys(self.transforms) if params is None else self._split(labels, params, params, "params")
        return {
            label: (tx, given[label], state.inner_states[label], theirs[label]) for label, tx in self.transforms.items()
        }

    def _labels(self, params: Params) -> list[Any]:
        """The label of each leaf."""
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

    def _split(self, labels: list[Any], reference: PyTree, whole: PyTree, name: str) -> dict[Any, PyTree]:
        """For each label the tree of its leaves, with ``None`` at the others'."""
        spec = tree.flatten(reference)[1]
        leaves = tree.flatten_as(spec, whole, name, "params")
        return {
            label: tree.unflatten(spec, [leaf if label == mine else None for leaf, mine in zip(leaves, labels)])
            for label in self.transforms
        }


def partition(transforms: Mapping[Any, GradientTransformation], labels: Labels) -> GradientTransformation:
    """Give each leaf to the transformation of its label.

    Args:
        transforms: a transformation for each label.
        labels: a tree of labels like the parameters, or a prefix of it (one label for a whole subtree), or a function
            from the parameters to either.

    Returns:
        A transformation with state :class:`PartitionState`.

    Raises:
        TypeError: what is given for a label is no transformation.
        ValueError: a label has no transform, or the labels do not have the structure of the parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.partition({"fast": fx.sgd(lr=1.0), "slow": fx.sgd(lr=0.1)}, {"body": "slow", "head": "fast"})
    >>> params = {"body": [torch.ones(1), torch.ones(1)], "head": torch.ones(1)}
    >>> fx.step(tx, params, tx.init(params), params)[0]
    {'body': [tensor([0.9000]), tensor([0.9000])], 'head': tensor([0.])}
    """
    for label, tx in transforms.items():
        check_transformation(f"partition: {label!r}", tx)
    return Partition(dict(transforms), labels, "labels").transformation()


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
        TypeError: ``inner`` is no transformation.
        ValueError: the mask holds something else than bools, or does not have the structure of the parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.masked(fx.add_decayed_weights(0.1), lambda params: {k: p.dim() > 1 for k, p in params.items()})
    >>> params = {"w": torch.ones(1, 2), "b": torch.ones(2)}
    >>> grads = {"w": torch.zeros(1, 2), "b": torch.zeros(2)}
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([[0.1000, 0.1000]]), 'b': tensor([0., 0.])}
    """
    check_transformation("masked: inner", inner)
    return Partition({True: inner, False: identity()}, mask, "mask").transformation()


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
