"""Learning rates of channels, measured in few dimensions. Zhu et al., APOLLO, 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.core import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    Array,
    AtLeastOne,
    Column,
    GradientTransformation,
    Hyper,
    Params,
    PyTree,
    State,
    check_count,
    check_transformation,
    factory,
    state_class,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.execution import check_state, count_from_zero
from optimfx.ops.random import normal_like
from optimfx.transforms.low_rank import LowRank, is_projected
from optimfx.transforms.scale_by_adam import scale_by_adam

TINY = 1e-8
"""Added to norms that are divided by."""


@state_class
class ApolloState(NamedTuple):
    """The state of APOLLO."""

    step: Tensor  # shape=(): updates taken
    base_optimizer_state: State  # for leaves of the shapes of the projections
    update_norm: PyTree  # shape=(..., 1, 1): norm of the last update, unscaled; () for a leaf that is not projected


@dataclass(frozen=True, eq=False)
class Apollo(LowRank):
    """The ``update`` of :func:`scale_by_apollo`."""

    by_channel: bool
    max_growth: Hyper
    seed: int

    name = "scale_by_apollo"

    def has_projected_rows(self, leaf: Tensor) -> bool:
        return leaf.shape[-2] < leaf.shape[-1]

    def begin(self, params: Params, inner: State) -> ApolloState:
        column, spec = tree.flatten(params)
        norms = [_norm(torch.zeros_like(p), (-2, -1)) if is_projected(p) else () for p in column]
        return ApolloState(count_from_zero(params), inner, tree.unflatten(spec, norms))

    def projectors(self, grads: Column, spec: tree.Structure, state: State) -> Column:
        check_state(self.name, ApolloState, state)
        drawn_at = state.step // self.update_proj_gap
        projectors: list[Array] = []
        for i, g in enumerate(grads):
            if is_projected(g):
                side = g.shape[-2] if self.has_projected_rows(g) else g.shape[-1]
                like = g.new_empty(*g.shape[:-2], side, self.rank_of(g))
                projectors.append(normal_like(like, self.seed, drawn_at, i) / self.rank_of(g) ** 0.5)
            else:
                projectors.append(None)
        return projectors

    def lift(
        self, grads: Column, low: Column, moves: Column, projectors: Column, spec: tree.Structure, state: State
    ) -> tuple[Column, dict[str, Any]]:
        max_growth = resolve(self.max_growth, as_step_number(state.step))
        norms: list[Any] = spec.flatten_up_to(state.update_norm)
        results: list[Array] = []
        for i, (g, r, u, p) in enumerate(zip(grads, low, moves, projectors)):
            if p is None:
                results.append(u)
                continue
            dim = (-2 if self.has_projected_rows(g) else -1) if self.by_channel else (-2, -1)
            update = g * (_norm(u, dim) / (_norm(r, dim) + TINY)).to(g.dtype)
            norm = _norm(update, (-2, -1))
            most = torch.where(norms[i] > 0, max_growth * norms[i], torch.inf)
            norms[i] = torch.minimum(norm, most)
            results.append(update * (self.scale * norms[i] / (norm + TINY)).to(g.dtype))
        return results, {"update_norm": tree.unflatten(spec, norms)}


def _norm(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """Measure along these dimensions, which are kept, in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x.to(dtype), dim=dim, keepdim=True)
    return norm


@factory
def scale_by_apollo(
    rank: int = 256,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    by_channel: bool = True,
    max_growth: AtLeastOne = 1.01,
    seed: int = 0,
    base_optimizer: GradientTransformation | None = None,
) -> GradientTransformation:
    r"""Scale the channels of a gradient as an adaptive algorithm scales its projection.

    .. math::
        r_t = P^\top g_t, \qquad s_j = \frac{\lVert \operatorname{base}(r_t)_{\cdot j} \rVert}{\lVert r_{t, \cdot j}
            \rVert}, \qquad u_t = c \, g_t \operatorname{diag}(s) \min\left(1, \, \gamma
            \frac{\lVert u_{t-1} \rVert}{\lVert u_t \rVert}\right)

    with Gaussian numbers of variance :math:`1 / r` in :math:`P`, drawn again every :math:`T` steps; norms of updates
    are without :math:`c`. Rows are projected where there are fewer of them than columns, else columns. A leaf of three
    dimensions is a stack of matrices in its last two; of kernels :func:`~optimfx.as_matrices` makes matrices. Other
    leaves are transformed as they are.

    Args:
        rank: :math:`r \ge 1`; at most the shorter side counts.
        update_proj_gap: :math:`T \ge 1`.
        scale: :math:`c`, a factor of the updates of matrices; the smaller the rank, the larger: the authors take
            :math:`\sqrt{128}` for a rank of 1.
        by_channel: a scale for each channel; else one for the whole matrix, as APOLLO-Mini has with a rank of 1.
        max_growth: :math:`\gamma \ge 1`, by what the norm of an update may grow.
        seed: an integer in [0, 2**24).
        base_optimizer: what transforms the projections, by default :func:`~optimfx.scale_by_adam`; not one that needs
            the parameters.

    Returns:
        A transformation with state :class:`ApolloState`: ``step`` (0-d), ``base_optimizer_state`` and ``update_norm``
        (shape (..., 1, 1)). No projection is kept.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type.

    References:
        Zhu et al., APOLLO: SGD-like Memory, AdamW-level Performance, 2024.

    Neither torch nor Optax has it.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.scale_by_apollo(rank=4), fx.add_decayed_weights(0.1), fx.scale_by_lr(1e-2))
    >>> params = {"w": torch.ones(32, 64), "b": torch.ones(64)}
    >>> fx.tree_get(tx.init(params), "exp_avg")["w"].shape
    torch.Size([4, 64])
    """
    check_count(AT_LEAST_ONE, rank=rank, update_proj_gap=update_proj_gap)
    check_count(NON_NEGATIVE, seed=seed)
    base_optimizer = base_optimizer or scale_by_adam()
    check_transformation("scale_by_apollo: base_optimizer", base_optimizer)
    update = Apollo(rank, update_proj_gap, scale, base_optimizer, by_channel, max_growth, seed)
    return update.as_transformation()
