"""SOAP. Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    Betas,
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
from optimfx.rules import adam
from optimfx.rules._shared.preconditioner import (
    average,
    for_sides,
    iterate,
    multiply,
    renew,
    transpose,
    unsupported_reason,
    zero_factor,
)


class SOAPState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment in the eigenbases
    row_factor: PyTree  # shape=(..., rows, rows): average of G G^T; () for a side that is too long
    column_factor: PyTree  # shape=(..., columns, columns): average of G^T G; () for a side that is too long
    row_basis: PyTree  # like row_factor: its eigenvectors
    column_basis: PyTree  # like column_factor: its eigenvectors


class Scalars(NamedTuple):
    adam: adam.Scalars  # of a step without decay
    shrinkage: Scalar | None  # lr weight_decay
    weight: Scalar  # 1 - shampoo_beta
    is_due: Any  # whether the eigenvectors are brought up to date


def init(param: Array, max_precond_dim: int) -> tuple[Array, ...]:
    factors = for_sides(param, max_precond_dim, zero_factor)
    return ops.zeros_like(param), ops.zeros_like(param), *factors, *for_sides(param, max_precond_dim, ops.eye)


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    shampoo_beta: Scalar,
    eps: Scalar,
    weight_decay: Scalar,
    precondition_frequency: int,
) -> Scalars:
    shrinkage = ops.decay_terms(lr, weight_decay)[1]
    plain = adam.scalars(step, lr, betas, eps, eps_root=0.0, weight_decay=0.0, decoupled_weight_decay=True)
    return Scalars(plain, shrinkage, 1 - shampoo_beta, (step - 1) % precondition_frequency == 0)


def leaf(
    base: Array,
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    row_factor: Array,
    column_factor: Array,
    row_basis: Array,
    column_basis: Array,
    s: Scalars,
) -> tuple[Array, ...]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    turned, average_turned = [multiply(transpose(row_basis), x, column_basis) for x in (grad, exp_avg)]
    update, _, exp_avg_sq, _ = adam.leaf(None, None, turned, average_turned, exp_avg_sq, None, s.adam)
    result = ops.add(base, multiply(row_basis, update, transpose(column_basis)))
    row_factor, column_factor = average(row_factor, column_factor, grad, s.weight)
    row_basis = renew(row_basis, s.is_due, lambda: iterate(row_basis, row_factor))
    column_basis = renew(column_basis, s.is_due, lambda: iterate(column_basis, column_factor))
    exp_avg = ops.lerp(exp_avg, grad, s.adam.weight1)
    return result, exp_avg, exp_avg_sq, row_factor, column_factor, row_basis, column_basis


SOAP = Rule(
    leaf,
    scalars,
    init,
    SOAPState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def soap(
    lr: NonNegative = 3e-3,
    betas: Betas = (0.95, 0.95),
    shampoo_beta: Decay = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""SOAP: Adam in the eigenvectors of Shampoo's preconditioner, for matrices.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad \hat g_t = Q_L^T g_t Q_R, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) \hat g_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \,
            Q_L \, \frac{Q_L^T m_t Q_R}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} \, Q_R^T \\
        L_t &= \beta_s L_{t-1} + (1 - \beta_s) g_t g_t^T, \qquad
            R_t = \beta_s R_{t-1} + (1 - \beta_s) g_t^T g_t

    :math:`Q_L` and :math:`Q_R` are identities at first, and follow the eigenvectors of :math:`L` and :math:`R`:
    :math:`Q \to \operatorname{qr}((L + \delta \lVert L \rVert I) Q)` every :math:`f` steps from the first, with
    :math:`\delta` = 1e-4.

    A leaf of more than two dimensions is a stack of matrices in its last two; of kernels :func:`~optimfx.as_matrices`
    makes matrices. For a model with other leaves too: ``fx.partition`` with ``fx.is_matrix``.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, as AdamW's.
        betas: decays of the moments, each in [0, 1).
        shampoo_beta: decay :math:`\beta_s` of :math:`L` and :math:`R`, in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        precondition_frequency: :math:`f \ge 1`.
        max_precond_dim: the longest side that has eigenvectors; a longer one is left as it is.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`SOAPState`: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameters),
        ``row_factor`` and ``row_basis`` (shape (..., rows, rows)), ``column_factor`` and ``column_basis``.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024.

    The authors' program begins with the eigenvectors of the first gradient's factors and leaves that step out; its
    :math:`\delta` is 0, which leaves the basis to rounding where a factor is singular. Derivatives take the basis for a
    constant. Where a step is traced (``vmap``, ``torch.compile``), whether it is due is not known beforehand, and each
    step computes it. Neither torch nor Optax has SOAP.

    >>> import torch, optimfx as fx
    >>> tx = fx.soap(lr=0.1, weight_decay=0.0)
    >>> params = torch.zeros(2, 2)
    >>> params, state = fx.step(tx, torch.tensor([[3.0, 4.0], [4.0, -3.0]]), tx.init(params), params)
    >>> params
    tensor([[-0.1000, -0.1000],
            [-0.1000,  0.1000]])
    """
    check_count(AT_LEAST_ONE, precondition_frequency=precondition_frequency, max_precond_dim=max_precond_dim)
    hyper = {"lr": lr, "betas": betas, "shampoo_beta": shampoo_beta, "eps": eps, "weight_decay": weight_decay}
    how = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim}
    return transformation("soap", SOAP, maximize=maximize, state_dtype=state_dtype, **hyper, **how)
