"""A transformation that sees all parameters as one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimfx.core import (
    Description,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_transformation,
    tree,
)
from optimfx.core.types import Column
from optimfx.execution import add_updates, check, explain, run
from optimfx.execution.memory.dtypes import real
from optimfx.execution.memory.vector import join, split


@dataclass(frozen=True, eq=False)
class Flatten(StructuredUpdate):
    """The ``update`` of a transformation of one vector."""

    inner: GradientTransformation

    def init(self, params: Params) -> State:
        return self.inner.init(_vector(tree.flatten(params)[0]))

    def run(
        self,
        updates: Updates,
        state: State,
        params: Params | None,
        *,
        stepping: bool,
        inplace: bool,
        spare_updates: bool = False,
        **extra: Any,
    ) -> tuple[PyTree, State]:
        column, spec = tree.flatten(updates if params is None else params)
        given, vector = self._vectors(updates, column, spec)
        how = {"stepping": False, "inplace": inplace, **extra}
        moves, state = run(self.inner, vector, state, None if params is None else _vector(column), **how)
        # Copy each leaf: a view would keep the whole vector alive.
        results = [None if g is None else r.clone() for g, r in zip(given, split(moves, column))]
        if stepping:
            results = add_updates(column, results, spec, inplace=inplace)
        return tree.unflatten(spec, results), state

    def _vectors(self, updates: Updates, column: Column, spec: tree.Structure) -> tuple[Column, Tensor]:
        """Return the updates, one by one and as one vector."""
        given = tree.flatten_like(spec, updates, column, "updates")
        return given, join(given, column, _dtype(column))

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        column, spec = tree.flatten(updates if params is None else params)
        vector = self._vectors(updates, column, spec)[1]
        check(self.inner, vector, state, None if params is None else _vector(column))

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.inner, _vector(tree.flatten(params)[0]))

    def description(self) -> Description:
        return Description("flatten", {}, [("", self.inner)])


def _vector(column: Column) -> Tensor:
    return join(column, column, _dtype(column))


def _dtype(column: Column) -> torch.dtype:
    """Find the real dtype that all leaves fit in."""
    dtype = torch.bool
    for leaf in column:
        dtype = dtype if leaf is None else torch.promote_types(dtype, real(leaf).dtype)
    return dtype


def flatten(inner: GradientTransformation) -> GradientTransformation:
    """Give a transformation all parameters as one vector.

    What the transformation does with a leaf, it then does with the whole: a trust ratio, a clip by block or a factored
    moment sees one tensor. For elementwise transformations the results are the same; executors join small leaves by
    themselves, so nothing becomes faster.

    Args:
        inner: the transformation; not one whose updates depend on the shape of a leaf.

    Returns:
        A transformation with the state of ``inner`` for a vector, in the dtype that all leaves fit in. Complex leaves
        are pairs of reals in it. For ``inner``, a leaf without gradient has the gradient 0; it stays as it is.

    Raises:
        TypeError: ``inner`` is not a transformation.

    As Optax's.

    >>> import torch, optimfx as fx
    >>> tx = fx.flatten(fx.clip_by_block_rms(1.0))
    >>> params = {"w": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 0.0])}
    >>> tx.update(params, tx.init(params))[0]
    {'w': tensor([1.2000, 1.6000]), 'b': tensor([0., 0.])}
    """
    check_transformation("flatten: inner", inner)
    return Flatten(inner).as_transformation()
