"""AdaMuon. Si et al., AdaMuon: Adaptive Muon Optimizer, 2025."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    BFLOAT16,
    Array,
    Decay,
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
from optimfx.rules import normuon
from optimfx.rules._shared.linalg import Triple, newton_schulz_triples, orthogonalize
from optimfx.rules.muon import average, unsupported_reason
from optimfx.rules.normuon import add_matched


class AdaMuonState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    momentum_buffer: PyTree  # like the parameters: average of the gradient
    exp_avg_sq: PyTree  # like the parameters: second moment of what was made orthogonal


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(
    step: Scalar,
    lr: Scalar,
    momentum: Scalar,
    weight_decay: Scalar,
    eps: Scalar,
    nesterov: bool,
    ns_coefficients: tuple[Any, ...],
    ns_steps: int,
    ns_dtype: DType | None,
) -> normuon.Scalars:
    how = nesterov, ns_coefficients, ns_steps, ns_dtype
    return normuon.scalars(step, lr, (momentum, momentum), weight_decay, eps, *how)


def leaf(
    base: Array, param: Array, grad: Array, momentum_buffer: Array, exp_avg_sq: Array, s: normuon.Scalars
) -> tuple[Array, Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    direction, momentum_buffer = average(grad, momentum_buffer, s.beta1, s.weight1, s.nesterov)
    orthogonal = orthogonalize(ops.sign(direction), *s.newton_schulz)
    exp_avg_sq = ops.lerp(exp_avg_sq, orthogonal * orthogonal, s.weight2)
    return add_matched(base, orthogonal / (ops.sqrt(exp_avg_sq) + s.eps), s), momentum_buffer, exp_avg_sq


ADAMUON = Rule(
    leaf,
    scalars,
    init,
    AdaMuonState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def adamuon(
    lr: NonNegative = 1e-3,
    momentum: Decay = 0.95,
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
    r"""AdaMuon: the sign of the momentum, made orthogonal, and each element scaled by a second moment of its own.

    .. math::
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad O_t = \operatorname{orthogonalize}(\operatorname{sign}(m_t)) \\
        v_t &= \mu v_{t-1} + (1 - \mu) O_t^2, \qquad \hat O_t = \frac{O_t}{\sqrt{v_t} + \epsilon} \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1}
            - 0.2 \, \gamma \sqrt{p q} \, \frac{\hat O_t}{\lVert \hat O_t \rVert_F}

    for a :math:`p \times q` matrix: a step has a root mean square of :math:`0.2 \gamma`, as AdamW's. A leaf of more
    than two dimensions is a stack of matrices in its last two; of kernels :func:`~optimfx.as_matrices` makes matrices.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, as AdamW's.
        momentum: decay :math:`\mu` of both averages, in [0, 1).
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment.
        nesterov: look ahead along the average: :math:`\mu m_t + (1 - \mu) g_t` in place of :math:`m_t`.
        ns_coefficients: as in :func:`~optimfx.muon`.
        ns_steps: from 0 to 99, how often the polynomial is applied.
        maximize: maximize the objective; weight decay still shrinks the parameters.
        ns_dtype: the dtype in which the polynomial is computed; ``None`` for that of the parameter.

    Returns:
        A transformation with state :class:`AdaMuonState`: ``step``, ``momentum_buffer`` and ``exp_avg_sq`` (like the
        parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Si et al., AdaMuon: Adaptive Muon Optimizer, 2025.

    >>> import torch, optimfx as fx
    >>> tx = fx.adamuon(lr=0.1, weight_decay=0.0, ns_dtype=None)
    >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), tx.init(torch.zeros(2, 2)))[0]
    tensor([[-0.0283, -0.0000],
            [-0.0000, -0.0283]])
    """
    check_count(Interval(0, 100), ns_steps=ns_steps)
    hyper = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps, "nesterov": nesterov}
    polynomial = {"ns_coefficients": newton_schulz_triples(ns_coefficients), "ns_steps": ns_steps, "ns_dtype": ns_dtype}
    return transformation("adamuon", ADAMUON, maximize=maximize, state_dtype=state_dtype, **hyper, **polynomial)
