"""Leaves that are matrices in another shape than their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from optimfx.core import (
    Array,
    Column,
    Description,
    ExecutionRow,
    GradientTransformation,
    Params,
    PyTree,
    State,
    StructuredUpdate,
    Updates,
    check_transformation,
    tracing,
    tree,
)
from optimfx.execution import check, explain, run

Shape: TypeAlias = tuple[int, ...]
ShapeOf: TypeAlias = Callable[[Tensor], Shape]


def kernel_as_matrix(leaf: Tensor) -> Shape:
    """Return the shape (out, in * height * width) for the kernel of a convolution; for another leaf, its own.

    The kernel has four or five dimensions. One of three, of a convolution in one dimension, cannot be told from a stack
    of matrices, and is left as it is.

    Args:
        leaf: a parameter.

    >>> import torch, optimfx as fx
    >>> fx.kernel_as_matrix(torch.ones(64, 32, 3, 3)), fx.kernel_as_matrix(torch.ones(8, 64, 32))
    ((64, 288), (8, 64, 32))
    """
    return (leaf.shape[0], math.prod(leaf.shape[1:])) if leaf.dim() > 3 else tuple(leaf.shape)


@dataclass(frozen=True, eq=False)
class AsMatrices(StructuredUpdate):
    """The ``update`` of :func:`as_matrices`."""

    inner: GradientTransformation
    shape_of: ShapeOf | PyTree

    def init(self, params: Params) -> State:
        return self.inner.init(self._reshaped(params, params))

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
        like = updates if params is None else params
        with tracing.no_grad_if_inplace(inplace):
            given = self._reshaped(updates, like), None if params is None else self._reshaped(params, like)
            how = {"stepping": stepping, "inplace": inplace, "spare_updates": spare_updates}
            results, after = run(self.inner, given[0], state, given[1], **how, **extra)
            written, spec = tree.flatten(like if stepping else updates)
            shown = tree.flatten(given[1] if stepping else given[0])[0]
            return tree.unflatten(spec, _restore(written, shown, spec.flatten_up_to(results), inplace)), after

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        like = updates if params is None else params
        check(
            self.inner, self._reshaped(updates, like), state, None if params is None else self._reshaped(params, like)
        )

    def explain(self, params: Params) -> list[ExecutionRow]:
        return explain(self.inner, self._reshaped(params, params))

    def description(self) -> Description:
        return Description("as_matrices", {}, [("", self.inner)])

    def _reshaped(self, values: PyTree, like: PyTree) -> PyTree:
        """Give the values the shapes of matrices; whose shape it is does not change with the gradients."""
        leaves, spec = tree.flatten(like)
        functions = (
            [self.shape_of] * len(leaves)
            if callable(self.shape_of)
            else tree.broadcast(self.shape_of, like, "shape_of", "params")
        )
        columns = tree.flatten_as(spec, values, "updates", "params")
        shaped = []
        for i, (value, leaf, function) in enumerate(zip(columns, leaves, functions)):
            if value is None or leaf is None:
                shaped.append(value)
                continue
            if value is not leaf:
                tree.check_counterpart(leaf, value, spec, i, ("params", "updates"))
            shape = tuple(function(leaf))
            if math.prod(shape) != leaf.numel():
                raise ValueError(
                    f"shape_of gives {tree.path(spec, i, 'params')} the shape {shape}, which has another number of "
                    f"elements than its own, {tuple(leaf.shape)}."
                )
            shaped.append(value if shape == tuple(value.shape) else value.reshape(shape))
        return tree.unflatten(spec, shaped)


def _restore(written: Column, shown: Column, results: Column, inplace: bool) -> list[Array]:
    """Give the results their own shapes; in place, in the tensors that were given, which matrices may be copies of."""
    restored: list[Array] = []
    for leaf, matrix, result in zip(written, shown, results):
        if result is None or leaf is None or result is leaf:
            restored.append(result)
        elif not inplace:
            restored.append(result.reshape(leaf.shape))
        else:
            is_view = result is matrix and leaf.is_contiguous()
            restored.append(leaf if is_view else leaf.copy_(result.reshape(leaf.shape)))
    return restored


def as_matrices(inner: GradientTransformation, shape_of: ShapeOf | PyTree = kernel_as_matrix) -> GradientTransformation:
    """Show the leaves to a transformation as the matrices that they are, or as stacks of matrices.

    Args:
        inner: what steps the matrices, such as :func:`~optimfx.muon`: the last two dimensions are one, those before
            them a stack.
        shape_of: a function from a leaf to the shape of its matrices, or a tree of such functions like the parameters,
            or a prefix of one. Without it, the kernel of a convolution is the matrix of :func:`kernel_as_matrix`, and
            any other leaf is what it is.

    Returns:
        A transformation with the state of ``inner``, whose leaves have the shapes of matrices.

    Raises:
        TypeError: ``inner`` is not a transformation.
        ValueError: a shape has another number of elements than its leaf, or ``shape_of`` is not a prefix of the
            parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.as_matrices(fx.muon())
    >>> tx.init({"conv": torch.ones(64, 32, 3, 3)}).momentum_buffer["conv"].shape
    torch.Size([64, 288])

    Queries, keys and values in one matrix are three:

    >>> split = {"qkv": lambda leaf: (3, leaf.shape[0] // 3, leaf.shape[1]), "mlp": fx.kernel_as_matrix}
    >>> params = {"qkv": torch.ones(96, 32), "mlp": torch.ones(128, 32)}
    >>> fx.as_matrices(fx.muon(), split).init(params).momentum_buffer["qkv"].shape
    torch.Size([3, 32, 32])
    """
    check_transformation("as_matrices: inner", inner)
    return AsMatrices(inner, shape_of).as_transformation()
