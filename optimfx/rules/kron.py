"""Kron. Li, Preconditioned Stochastic Gradient Descent, 2015; Pooladzandi and Li, Curvature-Informed SGD, 2024."""

from __future__ import annotations

from typing import Any, NamedTuple

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
from optimfx.rules._shared.preconditioner import (
    for_sides,
    greatest_eigenvalue,
    multiply,
    square,
    unsupported_reason,
)

BOUND_DECAY = 0.9
"""By how much the bound of a side's curvature falls in a step, at most."""


class KronState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    row_root: PyTree  # shape=(..., rows, rows): root of the preconditioner; () for a side that is too long
    column_root: PyTree  # shape=(..., columns, columns): the same for the columns
    row_bound: PyTree  # shape=(..., 1, 1): how fast the root may change; () for a side that is too long
    column_bound: PyTree  # shape=(..., 1, 1): the same for the columns


class Scalars(NamedTuple):
    size: Scalar  # lr / (1 - momentum^t)
    weight: Scalar  # 1 - momentum
    rate: Scalar  # precond_lr / 2
    is_first: Any
    is_due: Any  # whether the preconditioner is fitted
    shrinkage: Scalar | None  # lr weight_decay


def init(param: Array, max_precond_dim: int) -> tuple[Array, ...]:
    bounds = for_sides(param, max_precond_dim, lambda like, size: ops.zeros(like, (*like.shape[:-2], 1, 1)))
    return ops.zeros_like(param), *for_sides(param, max_precond_dim, ops.eye), *bounds


def scalars(
    step: Scalar, lr: Scalar, momentum: Scalar, weight_decay: Scalar, precond_lr: Scalar, precondition_frequency: int
) -> Scalars:
    shrinkage = ops.decay_terms(lr, weight_decay)[1]
    size, is_due = lr / (1 - momentum**step), (step - 1) % precondition_frequency == 0
    return Scalars(size, 1 - momentum, precond_lr / 2, step == 1, is_due, shrinkage)


def leaf(
    base: Array,
    param: Array,
    grad: Array,
    exp_avg: Array,
    row_root: Array,
    column_root: Array,
    row_bound: Array,
    column_bound: Array,
    s: Scalars,
) -> tuple[Array, ...]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    if s.is_first is not False:
        row_root, column_root = begin(grad, row_root, column_root, s.is_first)
    if s.is_due is not False:
        white = multiply(square(row_root), grad, square(column_root))
        row_root, row_bound = fit(row_root, row_bound, white, s)
        column_root, column_bound = fit(column_root, column_bound, ops.transpose(white), s)
    exp_avg = ops.lerp(exp_avg, grad, s.weight)
    result = ops.add(base, multiply(square(row_root), exp_avg, square(column_root)), alpha=-s.size)
    return result, exp_avg, row_root, column_root, row_bound, column_bound


def begin(grad: Array, row_root: Array, column_root: Array, is_first: Any) -> list[Array]:
    """Scale the identities so that the first gradient comes out with a mean square of 1."""
    sides = [root for root in (row_root, column_root) if root is not None]
    rms = ops.norm(grad, dim=(-2, -1)) / ops.sqrt(max(1, grad.shape[-2] * grad.shape[-1]))
    scale = ops.where(rms == 0, 1.0, rms) ** (-1 / (2 * max(1, len(sides))))
    return [None if root is None else ops.where(is_first, root * scale, root) for root in (row_root, column_root)]


def fit(root: Array, bound: Array, white: Array, s: Scalars) -> tuple[Array, Array]:
    r"""Bring :math:`W W^T` of the whitened gradient nearer to its mean for independent elements, along one side."""
    if root is None:
        return None, None
    gram, level = white @ ops.transpose(white), max(1, white.shape[-1])
    top = greatest_eigenvalue(gram) + level
    new_bound = ops.maximum(BOUND_DECAY * bound + (1 - BOUND_DECAY) * top, top)
    rate = s.rate / new_bound
    half = root - rate * (gram @ root - level * root)
    whole = half - rate * (half @ gram - level * half)
    symmetric = (whole + ops.transpose(whole)) / 2
    return ops.where(s.is_due, symmetric, root), ops.where(s.is_due, new_bound, bound)


KRON = Rule(
    leaf,
    scalars,
    init,
    KronState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def kron(
    lr: NonNegative = 1e-3,
    momentum: Decay = 0.9,
    weight_decay: NonNegative = 0.01,
    precond_lr: NonNegative = 0.1,
    precondition_frequency: int = 1,
    max_precond_dim: int = 10_000,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""PSGD with a Kronecker-factored preconditioner that whitens gradients, for matrices as :func:`soap` takes.

    .. math::
        W_t &= Q_L^2 \, g_t \, Q_R^2, \qquad E_L = W_t W_t^T - q I, \qquad E_R = W_t^T W_t - p I \\
        Q &\to \left(I - \tfrac{\eta}{2 b} E\right) Q \left(I - \tfrac{\eta}{2 b} E\right), \qquad
            b = \max(0.9 \, b + 0.1 \, \lVert E \rVert, \lVert E \rVert) \\
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad
            \theta_t = (1 - \gamma \lambda) \, \theta_{t-1} - \frac{\gamma}{1 - \mu^t} Q_L^2 \, m_t \, Q_R^2

    for a :math:`p \times q` matrix. :math:`\lVert E \rVert` is bounded by the greatest eigenvalue of the product
    (:math:`W W^T` or :math:`W^T W`) plus :math:`q` or :math:`p`. Nothing is inverted or decomposed. The roots :math:`Q`
    begin as multiples of the identity, with which the first gradient has a mean square of 1.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units: a step's elements are about as large.
        momentum: :math:`\mu`, decay of the average of gradients, in [0, 1).
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        precond_lr: :math:`\eta \ge 0`, how fast the preconditioner is fitted; below 1.
        precondition_frequency: after how many steps it is fitted again, at least 1.
        max_precond_dim: the longest side that has a factor; a longer one is left as it is.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`KronState`: ``step``, ``exp_avg`` (like the parameters), ``row_root`` (shape
        (..., rows, rows)), ``column_root``, and a bound for each.

    References:
        Li, Preconditioned Stochastic Gradient Descent, 2015. Pooladzandi and Li, Curvature-Informed SGD via General
        Purpose Lie-Group Preconditioners, 2024; the symmetric roots and their quadratic step are those of Li's program.

    That program adds noise to the gradients, balances the two factors at random steps, and has diagonal factors for
    long sides; this has not. Neither torch nor Optax has PSGD.

    >>> import torch, optimfx as fx
    >>> tx = fx.kron(lr=0.1, weight_decay=0.0)
    >>> params = torch.zeros(2, 2)
    >>> params, state = fx.step(tx, torch.tensor([[3.0, 0.0], [0.0, 3.0]]), tx.init(params), params)
    >>> params
    tensor([[-0.1414,  0.0000],
            [ 0.0000, -0.1414]])
    """
    check_count(AT_LEAST_ONE, precondition_frequency=precondition_frequency, max_precond_dim=max_precond_dim)
    hyper = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "precond_lr": precond_lr}
    how = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim}
    return transformation("kron", KRON, maximize=maximize, state_dtype=state_dtype, **hyper, **how)
