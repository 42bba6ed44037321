"""Dion. Ahn et al., Dion: Distributed Orthonormalized Updates, 2025."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    Decay,
    DType,
    GradientTransformation,
    Locality,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    check_count,
    factory,
)
from optimfx.execution import transformation
from optimfx.rules._shared.preconditioner import TINY, unsupported_reason


class DionState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    momentum_buffer: PyTree  # like the parameters: gradients, less what the steps have used up
    right: PyTree  # shape=(..., columns, rank): directions in which the momentum is looked at


class Scalars(NamedTuple):
    lr: Scalar
    leftover: Scalar  # 1 - momentum: how much of what a step goes along is taken from the momentum
    shrinkage: Scalar | None  # lr weight_decay


def init(param: Array, rank: int) -> tuple[Array, Array]:
    rows, columns = param.shape[-2:]
    return ops.zeros_like(param), ops.eye(param, columns)[..., : min(rank, rows, columns)] + 0


def scalars(step: Scalar, lr: Scalar, momentum: Scalar, weight_decay: Scalar) -> Scalars:
    return Scalars(lr, 1 - momentum, ops.decay_terms(lr, weight_decay)[1])


def leaf(
    base: Array, param: Array, grad: Array, momentum_buffer: Array, right: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    total = momentum_buffer + grad
    left = ops.qr(total @ right)
    image = ops.transpose(total) @ left
    momentum_buffer = total - s.leftover * (left @ ops.transpose(image))
    right = image / ops.maximum(ops.norm(image, dim=-2), TINY)
    rows, columns = grad.shape[-2:]
    size = s.lr * ops.sqrt(rows / max(1, columns))
    return ops.add(base, left @ ops.transpose(right), alpha=-size), momentum_buffer, right


DION = Rule(
    leaf,
    scalars,
    init,
    DionState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def dion(
    lr: NonNegative = 1e-2,
    momentum: Decay = 0.95,
    weight_decay: NonNegative = 0.01,
    rank: int = 64,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Dion: orthonormal steps of low rank, and a momentum that keeps what they leave out.

    .. math::
        B_t &= M_{t-1} + g_t, \qquad P_t = \operatorname{qr}(B_t Q_{t-1}), \qquad R_t = B_t^T P_t \\
        M_t &= B_t - (1 - \mu) P_t R_t^T, \qquad Q_t = R_t \;\text{with columns of norm 1} \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \sqrt{p / q} \, P_t Q_t^T

    for a :math:`p \times q` matrix. A leaf of more than two dimensions is a stack of matrices in its last two; of
    kernels :func:`~optimfx.as_matrices` makes matrices. For a model with other leaves too: ``fx.partition`` with
    ``fx.is_matrix``.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units per unit of spectral norm.
        momentum: :math:`\mu`, in [0, 1): how much the momentum keeps of what a step has gone along.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        rank: of a step, at least 1; at most the shorter side counts.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`DionState`: ``step``, ``momentum_buffer`` (like the parameters) and
        ``right`` (shape (..., columns, rank)).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Ahn et al., Dion: Distributed Orthonormalized Updates, 2025.

    :math:`Q_0` is the first columns of the identity; the authors' is random. Derivatives take :math:`P` for a constant.

    >>> import torch, optimfx as fx
    >>> tx = fx.dion(lr=0.1, weight_decay=0.0, rank=1)
    >>> tx.update(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), tx.init(torch.zeros(2, 2)))[0]
    tensor([[-0.0424, -0.0566],
            [-0.0424, -0.0566]])
    """
    check_count(AT_LEAST_ONE, rank=rank)
    hyper = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rank": rank}
    return transformation("dion", DION, maximize=maximize, state_dtype=state_dtype, **hyper)
