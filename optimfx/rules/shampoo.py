"""Shampoo. Gupta et al., Shampoo: Preconditioned Stochastic Tensor Optimization, 2018."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    Betas,
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
    TINY,
    average,
    for_sides,
    inverse_root,
    multiply,
    renew,
    unsupported_reason,
    zero_factor,
)


class ShampooState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment; () unless Adam is grafted
    row_factor: PyTree  # shape=(..., rows, rows): average of G G^T; () for a side that is too long
    column_factor: PyTree  # shape=(..., columns, columns): average of G^T G; () for a side that is too long
    row_root: PyTree  # like row_factor: its inverse root
    column_root: PyTree  # like column_factor: its inverse root


class Scalars(NamedTuple):
    adam: adam.Scalars  # of a step without decay
    shrinkage: Scalar | None  # lr weight_decay
    weight: Scalar  # 1 - beta2
    bias_correction: Scalar  # 1 - beta2^t
    eps: Scalar
    is_due: Any  # whether the roots are computed
    grafts: bool


def init(param: Array, max_precond_dim: int, grafting: str | None) -> tuple[Array, ...]:
    factors = for_sides(param, max_precond_dim, zero_factor)
    second = ops.zeros_like(param) if grafting == "adam" else None
    return ops.zeros_like(param), second, *factors, *for_sides(param, max_precond_dim, ops.eye)


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
    weight_decay: Scalar,
    precondition_frequency: int,
    grafting: str | None,
) -> Scalars:
    beta2, shrinkage = betas[1], ops.decay_terms(lr, weight_decay)[1]
    plain = adam.scalars(step, lr, betas, eps=1e-8, eps_root=0.0, weight_decay=0.0, decoupled_weight_decay=True)
    is_due = (step - 1) % precondition_frequency == 0
    return Scalars(plain, shrinkage, 1 - beta2, 1 - beta2**step, eps, is_due, grafting is not None)


def leaf(
    base: Array,
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    row_factor: Array,
    column_factor: Array,
    row_root: Array,
    column_root: Array,
    s: Scalars,
) -> tuple[Array, ...]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    row_factor, column_factor = average(row_factor, column_factor, grad, s.weight)
    order = 2 * sum(factor is not None for factor in (row_factor, column_factor))
    how = order, s.eps
    row_root = renew(row_root, s.is_due, lambda: inverse_root(row_factor / s.bias_correction, *how))
    column_root = renew(column_root, s.is_due, lambda: inverse_root(column_factor / s.bias_correction, *how))
    if exp_avg_sq is None:
        exp_avg = ops.lerp(exp_avg, grad, s.adam.weight1)
        plain = exp_avg * -s.adam.step_size
    else:
        plain, exp_avg, exp_avg_sq, _ = adam.leaf(None, None, grad, exp_avg, exp_avg_sq, None, s.adam)
    update, size = multiply(row_root, exp_avg, column_root), s.adam.step_size
    if s.grafts:
        size = ops.norm(plain, dim=(-2, -1)) / ops.maximum(ops.norm(update, dim=(-2, -1)), TINY)
    result = ops.add(base, update * -size)
    return result, exp_avg, exp_avg_sq, row_factor, column_factor, row_root, column_root


SHAMPOO = Rule(
    leaf,
    scalars,
    init,
    ShampooState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def shampoo(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 8192,
    grafting: str | None = "adam",
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Shampoo: momentum, multiplied from both sides by inverse roots of the gradient's second moments.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            L_t = \beta_2 L_{t-1} + (1 - \beta_2) g_t g_t^T, \qquad R_t = \beta_2 R_{t-1} + (1 - \beta_2) g_t^T g_t \\
        u_t &= \hat L_t^{-1/4} \, \hat m_t \, \hat R_t^{-1/4}, \qquad
            \theta_t = (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \, \frac{\lVert a_t \rVert}{\lVert u_t \rVert} u_t

    Hats divide by :math:`1 - \beta^t`. Grafting gives a step the norm of another algorithm's, :math:`a_t`; without it,
    the fraction is left out. Where one side is too long, the other's root is a square root. A leaf of more than two
    dimensions is a stack of matrices in its last two; of kernels :func:`~optimfx.as_matrices` makes matrices.

    Args:
        lr: learning rate :math:`\gamma \ge 0`; with grafting, that of the other algorithm.
        betas: decays of the momentum and of the second moments, each in [0, 1).
        eps: the least eigenvalue of a second moment, at least 0, in units of its largest.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        precondition_frequency: after how many steps the roots are computed again, at least 1.
        max_precond_dim: the longest side that has a root; a longer one is left as it is.
        grafting: ``"adam"``, ``"sgd"`` (:math:`a_t = \hat m_t`), or ``None``.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`ShampooState`: ``step``, ``exp_avg``, ``exp_avg_sq`` (like the parameters),
        ``row_factor`` and ``row_root`` (shape (..., rows, rows)), ``column_factor`` and ``column_root``.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Gupta et al., Shampoo: Preconditioned Stochastic Tensor Optimization, 2018. Grafting: Anil et al., 2020.

    Derivatives take the roots for constants. A traced step (``vmap``, ``torch.compile``) computes them each time.

    >>> import torch, optimfx as fx
    >>> tx = fx.shampoo(lr=0.1, weight_decay=0.0, grafting=None)
    >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), tx.init(torch.zeros(2, 2)))[0]
    tensor([[-0.1000, -0.0000],
            [-0.0000, -0.1000]])
    """
    check_count(AT_LEAST_ONE, precondition_frequency=precondition_frequency, max_precond_dim=max_precond_dim)
    if grafting not in ("adam", "sgd", None):
        raise ValueError(f"grafting must be 'adam', 'sgd' or None; got {grafting!r}.")
    hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "grafting": grafting}
    how = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim}
    return transformation("shampoo", SHAMPOO, maximize=maximize, state_dtype=state_dtype, **hyper, **how)
