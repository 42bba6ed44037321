"""Gradients in the directions in which they are largest. Zhao et al., GaLore, 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    Column,
    GradientTransformation,
    NonNegative,
    Params,
    PyTree,
    State,
    check_count,
    check_transformation,
    factory,
    state_class,
    tracing,
    tree,
)
from optimfx.execution import check_state, count_from_zero
from optimfx.transforms.low_rank import LowRank, is_projected
from optimfx.transforms.scale import scale_by_lr
from optimfx.transforms.scale_by_adam import scale_by_adam
from optimfx.transforms.weight_decay import add_decayed_weights


@state_class
class GaLoreState(NamedTuple):
    """The state of a transformation of projected gradients."""

    step: Tensor  # shape=(): updates taken
    base_optimizer_state: State  # for leaves of the shapes of the projections
    projector: PyTree  # shape=(..., longer side, rank): orthonormal columns; () for a leaf that is not projected


@dataclass(frozen=True, eq=False)
class GaLore(LowRank):
    """The ``update`` of :func:`scale_by_galore`."""

    name = "scale_by_galore"

    def has_projected_rows(self, leaf: Tensor) -> bool:
        return leaf.shape[-2] >= leaf.shape[-1]

    def begin(self, params: Params, inner: State) -> GaLoreState:
        column, spec = tree.flatten(params)
        projectors = [
            p.new_zeros(*p.shape[:-2], max(p.shape[-2:]), self.rank_of(p)) if is_projected(p) else () for p in column
        ]
        return GaLoreState(count_from_zero(params), inner, tree.unflatten(spec, projectors))

    def projectors(self, grads: Column, spec: tree.Structure, state: State) -> Column:
        check_state(self.name, GaLoreState, state)
        is_due = tracing.read_bool(state.step % self.update_proj_gap == 0)
        kept: list[Any] = [None if p == () else p for p in spec.flatten_up_to(state.projector)]
        return [p if g is None or p is None else self._renewed(p, g, is_due) for p, g in zip(kept, grads)]

    def _renewed(self, projector: Tensor, grad: Tensor, is_due: Any) -> Array:
        return ops.either(is_due, lambda: self._directions(grad), lambda: projector)

    def _directions(self, grad: Tensor) -> Tensor:
        """Return the singular vectors of the greatest singular values, of the longer side."""
        tall = grad if self.has_projected_rows(grad) else grad.mH
        wide_enough = torch.promote_types(grad.dtype, torch.float32)
        left: Tensor = torch.linalg.svd(torch.nan_to_num(tall.detach().to(wide_enough)), full_matrices=False)[0]
        return left[..., : self.rank_of(grad)].to(grad.dtype).contiguous()

    def lift(
        self, grads: Column, low: Column, moves: Column, projectors: Column, spec: tree.Structure, state: State
    ) -> tuple[Column, dict[str, Any]]:
        results: list[Array] = []
        for g, u, p in zip(grads, moves, projectors):
            if p is None or g is None:
                results.append(u)
            else:
                results.append((p @ u if self.has_projected_rows(g) else u @ p.mH) * self.scale)
        return results, {"projector": tree.unflatten(spec, [() if p is None else p for p in projectors])}


@factory
def scale_by_galore(
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    base_optimizer: GradientTransformation | None = None,
) -> GradientTransformation:
    r"""Transform gradients in the space of their greatest singular vectors.

    .. math::
        P_t = \operatorname{svd}_r(g_t) \;\text{every } T \text{ steps}, \qquad
            u_t = c \, P_t \, \operatorname{base}(P_t^\top g_t)

    with the left singular vectors of a matrix with at least as many rows as columns; of a wider one, its columns are
    projected, with the right ones. A leaf of three dimensions is a stack of matrices in its last two; of kernels
    :func:`~optimfx.as_matrices` makes matrices. Other leaves are transformed as they are.

    Args:
        rank: :math:`r \ge 1`; at most the shorter side counts.
        update_proj_gap: :math:`T \ge 1`.
        scale: :math:`c`, a factor of the updates of projected leaves.
        base_optimizer: what transforms the projections, by default :func:`~optimfx.scale_by_adam`; not one that needs
            the parameters: decay comes after.

    Returns:
        A transformation with state :class:`GaLoreState`: ``step`` (0-d), ``base_optimizer_state`` and ``projector``
        (shape (..., longer side, rank)).

    Raises:
        ValueError, TypeError: an argument is out of range or of another type.

    References:
        Zhao et al., GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, 2024.

    As Optax's, with :func:`~optimfx.as_matrices` around it for ``weight_dimension_numbers``. Derivatives take :math:`P`
    for a constant; under ``torch.compile`` and ``torch.func`` transforms, each step decomposes.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_galore(rank=1, base_optimizer=fx.identity())
    >>> grads = {"w": torch.tensor([[4.0, 0.0], [0.0, 1.0]])}
    >>> tx.update(grads, tx.init(grads))[0]["w"].abs()
    tensor([[4., 0.],
            [0., 0.]])
    """
    check_count(AT_LEAST_ONE, rank=rank, update_proj_gap=update_proj_gap)
    base_optimizer = base_optimizer or scale_by_adam()
    check_transformation("scale_by_galore: base_optimizer", base_optimizer)
    return GaLore(rank, update_proj_gap, scale, base_optimizer).as_transformation()


def galore(
    lr: NonNegative = 1e-3,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: NonNegative = 0.0,
    mask: PyTree | None = None,
) -> GradientTransformation:
    r"""GaLore: :func:`scale_by_galore`, decoupled weight decay, and a learning rate.

    .. math:: \theta_t = \theta_{t-1} - \gamma (u_t + \lambda \theta_{t-1})

    Args:
        lr: learning rate :math:`\gamma \ge 0`.
        rank: of the projections, at least 1.
        update_proj_gap: after how many steps the projections are renewed, at least 1.
        scale: a factor of the updates of projected leaves.
        base_optimizer: as in :func:`scale_by_galore`.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        mask: decay only these leaves, as in :func:`~optimfx.add_decayed_weights`.

    Returns:
        A transformation with the states of its links.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type; at ``update``, no ``params``.

    References:
        Zhao et al., GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, 2024.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.galore(lr=0.1, rank=4), {"w": torch.ones(64, 32), "b": torch.ones(32)}
    >>> fx.tree_get(tx.init(params), "exp_avg")["w"].shape
    torch.Size([4, 32])
    """
    direction = scale_by_galore(rank, update_proj_gap, scale, base_optimizer)
    return chain(direction, add_decayed_weights(weight_decay, mask), scale_by_lr(lr))
