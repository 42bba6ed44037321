"""NorMuon. Li et al., NorMuon: Making Muon more efficient and scalable, 2025."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    BFLOAT16,
    Array,
    Betas,
    DType,
    GradientTransformation,
    Interval,
    Locality,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    check_count,
    factory,
)
from optimfx.execution import transformation
from optimfx.rules._shared.linalg import Triple, newton_schulz_triples, orthogonalize
from optimfx.rules.muon import average, unsupported_reason


class NorMuonState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    momentum_buffer: PyTree  # like the parameters: average of the gradient
    row_var: PyTree  # shape=(..., rows, 1): second moment of the rows of what was made orthogonal


class Scalars(NamedTuple):
    lr: Scalar
    weight1: Scalar  # 1 - beta1
    beta1: Scalar
    weight2: Scalar  # 1 - beta2
    shrinkage: Scalar | None  # lr weight_decay
    eps: Scalar
    newton_schulz: tuple[Any, ...]  # arguments of orthogonalize
    nesterov: bool


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros(param, (*param.shape[:-1], 1))


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    weight_decay: Scalar,
    eps: Scalar,
    nesterov: bool,
    ns_coefficients: tuple[Any, ...],
    ns_steps: int,
    ns_dtype: DType | None,
) -> Scalars:
    beta1, beta2 = betas
    shrinkage = ops.decay_terms(lr, weight_decay)[1]
    newton_schulz = ns_coefficients, ns_steps, 1e-7, ns_dtype
    return Scalars(lr, 1 - beta1, beta1, 1 - beta2, shrinkage, eps, newton_schulz, nesterov)


def add_matched(base: Array, direction: Array, s: Scalars) -> Array:
    """Go along a direction, by a step whose root mean square is AdamW's."""
    root = ops.sqrt(max(1, direction.shape[-2] * direction.shape[-1]))
    size = s.lr * 0.2 * root / ops.maximum(ops.norm(direction, dim=(-2, -1)), s.eps)
    return ops.add(base, direction * -size)


def leaf(
    base: Array, param: Array, grad: Array, momentum_buffer: Array, row_var: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    direction, momentum_buffer = average(grad, momentum_buffer, s.beta1, s.weight1, s.nesterov)
    orthogonal = orthogonalize(direction, *s.newton_schulz)
    row_var = ops.lerp(row_var, ops.mean(orthogonal * orthogonal, -1), s.weight2)
    return add_matched(base, orthogonal / (ops.sqrt(row_var) + s.eps), s), momentum_buffer, row_var


NORMUON = Rule(
    leaf,
    scalars,
    init,
    NorMuonState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def normuon(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.95, 0.95),
    weight_decay: NonNegative = 0.1,
    eps: NonNegative = 1e-8,
    nesterov: bool = False,
    ns_coefficients: Triple | str = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    ns_dtype: DType | None = BFLOAT16,
) -> GradientTransformation:
    r"""NorMuon: Muon whose rows, one for each neuron, are scaled by a second moment of theirs.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad O_t = \operatorname{orthogonalize}(m_t) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \operatorname{mean}_{\text{row}}(O_t^2), \qquad
            \hat O_t = \frac{O_t}{\sqrt{v_t} + \epsilon} \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1}
            - 0.2 \, \gamma \sqrt{p q} \, \frac{\hat O_t}{\lVert \hat O_t \rVert_F}

    for a :math:`p \times q` matrix: a step has a root mean square of :math:`0.2 \gamma`, as AdamW's. A leaf of more
    than two dimensions is a stack of matrices in its last two; of kernels :func:`~optimfx.as_matrices` makes matrices.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, as AdamW's.
        betas: decays of the average and of the rows' second moment, each in [0, 1).
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment.
        nesterov: look ahead along the average: :math:`\beta_1 m_t + (1 - \beta_1) g_t` in place of :math:`m_t`.
        ns_coefficients: as in :func:`~optimfx.muon`.
        ns_steps: from 0 to 99, how often the polynomial is applied.
        maximize: maximize the objective; weight decay still shrinks the parameters.
        ns_dtype: the dtype in which the polynomial is computed; ``None`` for that of the parameter.

    Returns:
        A transformation with state :class:`NorMuonState`: ``step``, ``momentum_buffer`` (like the parameters) and
        ``row_var`` (shape (..., rows, 1)).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Li et al., NorMuon: Making Muon more efficient and scalable, 2025.

    >>> import torch, optimfx as fx
    >>> tx = fx.normuon(lr=0.1, weight_decay=0.0, ns_dtype=None)
    >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), tx.init(torch.zeros(2, 2)))[0]
    tensor([[-0.0283, -0.0000],
            [-0.0000, -0.0283]])
    """
    check_count(Interval(0, 100), ns_steps=ns_steps)
    return transformation(
        "normuon",
        NORMUON,
        maximize=maximize,
        state_dtype=state_dtype,
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
        eps=eps,
        nesterov=nesterov,
        ns_coefficients=newton_schulz_triples(ns_coefficients),
        ns_steps=ns_steps,
        ns_dtype=ns_dtype,
    )
