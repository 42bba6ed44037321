"""A transformation of gradients in fewer dimensions: what projections around any link share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

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
    tree,
)
from optimfx.execution import add_updates, check, explain, run


def is_projected(leaf: Array) -> bool:
    """Whether a leaf is a matrix, or a stack of matrices in its last two dimensions."""
    return leaf is not None and leaf.dim() in (2, 3)


def project(projector: Array, grad: Array, rows: bool) -> Array:
    """Make the rows of a matrix, or its columns, combinations of them; a leaf without projector stays."""
    if projector is None or grad is None:
        return grad
    return projector.mH @ grad if rows else grad @ projector


@dataclass(frozen=True, eq=False)
class LowRank(StructuredUpdate):
    """The ``update`` of a projection around a transformation.

    Subclasses say which side of a matrix is projected and with what, and what is made of the results.
    """

    name: ClassVar[str]
    rank: int
    update_proj_gap: int
    scale: float
    base_optimizer: GradientTransformation

    def has_projected_rows(self, leaf: Tensor) -> bool:
        """Whether the rows of the matrix are projected, or its columns."""
        raise NotImplementedError

    def begin(self, params: Params, inner: State) -> State:
        """Return the state."""
        raise NotImplementedError

    def projectors(self, grads: Column, spec: tree.Structure, state: State) -> Column:
        """Return the matrix that each leaf is projected with; ``None`` for one that is not."""
        raise NotImplementedError

    def lift(
        self, grads: Column, low: Column, moves: Column, projectors: Column, spec: tree.Structure, state: State
    ) -> tuple[Column, dict[str, Any]]:
        """Return the updates, made of what the transformation made of the projections, and the fields of the state."""
        raise NotImplementedError

    def rank_of(self, leaf: Tensor) -> int:
        """Return the rank for a matrix: at most the length of its shorter side."""
        return min(self.rank, int(leaf.shape[-2]), int(leaf.shape[-1]))

    def shape_of_low(self, leaf: Tensor) -> tuple[int, ...]:
        """Return the shape of a projected matrix."""
        *batch, rows, columns = leaf.shape
        rank = self.rank_of(leaf)
        return (*batch, rank, columns) if self.has_projected_rows(leaf) else (*batch, rows, rank)

    def init(self, params: Params) -> State:
        column, spec = tree.flatten(params)
        low = [p.new_zeros(self.shape_of_low(p)) if is_projected(p) else p for p in column]
        return self.begin(params, self.base_optimizer.init(tree.unflatten(spec, low)))

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
        grads, spec = tree.flatten(updates)
        projectors = self.projectors(grads, spec, state)
        low = [g if p is None else project(p, g, self.has_projected_rows(g)) for g, p in zip(grads, projectors)]
        # What it makes of gradients is compared with them.
        how = {"stepping": False, "inplace": inplace, "spare_updates": True, **extra}
        moved, inner = run(self.base_optimizer, tree.unflatten(spec, low), state.base_optimizer_state, None, **how)
        moves: list[Any] = spec.flatten_up_to(moved)
        results, kept = self.lift(grads, low, moves, projectors, spec, state)
        if stepping:
            leaves, structure = tree.flatten(params)
            results = add_updates(leaves, results, structure, inplace=inplace)
            spec = structure
        kept = {"step": state.step + 1, "base_optimizer_state": inner, **kept}
        return tree.unflatten(spec, results), state._replace(**kept)

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        grads, spec = tree.flatten(updates)
        low = [g.new_empty(self.shape_of_low(g)) if is_projected(g) else g for g in grads]
        check(self.base_optimizer, tree.unflatten(spec, low), state.base_optimizer_state, None)

    def explain(self, params: Params) -> list[ExecutionRow]:
        column, spec = tree.flatten(params)
        low = [p.new_empty(self.shape_of_low(p)) if is_projected(p) else p for p in column]
        return explain(self.base_optimizer, tree.unflatten(spec, low))

    def description(self) -> Description:
        hyper = {name: value for name, value in vars(self).items() if name != "base_optimizer"}
        return Description(self.name, hyper, [("", self.base_optimizer)])
