"""Muon. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from optimfx import ops
from optimfx.core import (
    BFLOAT16,
    Array,
    Decay,
    DType,
    GradientTransformation,
    Hyper,
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
from optimfx.rules._shared.linalg import newton_schulz_triples, orthogonalize

Triple: TypeAlias = tuple[Hyper, Hyper, Hyper]


class MuonState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    momentum_buffer: PyTree  # like the parameters: average of the gradient


class Scalars(NamedTuple):
    lr: Scalar
    momentum: Scalar
    weight: Scalar  # 1 - momentum
    shrinkage: Scalar | None  # lr weight_decay
    newton_schulz: tuple[Any, ...]  # arguments of orthogonalize
    nesterov: bool
    adjust_lr_fn: str | None


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def unsupported_reason(param: Array) -> str | None:
    if param.dim() < 2:
        return (
            "only matrices are made orthogonal. Give other leaves to another optimizer: fx.partition with fx.is_matrix"
        )
    if param.is_complex():
        return "only real matrices are made orthogonal; the parts of a complex one are not orthogonal by themselves"
    return None


def scalars(
    step: Scalar,
    lr: Scalar,
    momentum: Scalar,
    weight_decay: Scalar,
    nesterov: bool,
    ns_coefficients: tuple[Any, ...],
    eps: Scalar,
    ns_steps: int,
    adjust_lr_fn: str | None,
    ns_dtype: DType | None,
) -> Scalars:
    shrinkage = ops.decay_terms(lr, weight_decay)[1]
    newton_schulz = ns_coefficients, ns_steps, eps, ns_dtype
    return Scalars(lr, momentum, 1 - momentum, shrinkage, newton_schulz, nesterov, adjust_lr_fn)


def shape_factor(matrix: Array, adjust_lr_fn: str | None) -> Array:
    """Compute what makes one learning rate right for matrices of every shape."""
    rows, columns = matrix.shape[-2:]
    matched = adjust_lr_fn == "match_rms_adamw"
    return 0.2 * ops.sqrt(max(rows, columns)) if matched else ops.sqrt(max(1, rows / max(1, columns)))


def average(
    grad: Array, momentum_buffer: Array, momentum: Scalar, weight: Scalar, nesterov: bool
) -> tuple[Array, Array]:
    """Average the gradient; return the direction, which may look ahead along the average, and the average."""
    momentum_buffer = ops.lerp(momentum_buffer, grad, weight)
    return (ops.lerp(grad, momentum_buffer, momentum) if nesterov else momentum_buffer), momentum_buffer


def leaf(base: Array, param: Array, grad: Array, momentum_buffer: Array, s: Scalars) -> tuple[Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    direction, momentum_buffer = average(grad, momentum_buffer, s.momentum, s.weight, s.nesterov)
    size = s.lr * shape_factor(grad, s.adjust_lr_fn)
    return ops.add(base, orthogonalize(direction, *s.newton_schulz), alpha=-size), momentum_buffer


MUON = Rule(
    leaf,
    scalars,
    init,
    MuonState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def muon(
    lr: NonNegative = 1e-3,
    weight_decay: NonNegative = 0.1,
    momentum: Decay = 0.95,
    nesterov: bool = True,
    ns_coefficients: Triple | Sequence[Triple] | str = (3.4445, -4.7750, 2.0315),
    eps: NonNegative = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    ns_dtype: DType | None = BFLOAT16,
) -> GradientTransformation:
    r"""Muon: momentum, made orthogonal. For the matrices of hidden layers.

    .. math::
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad u_t = m_t \;\text{or, with Nesterov,}\; \mu m_t + (1 - \mu) g_t \\
        X_0 &= \frac{u_t}{\max(\lVert u_t \rVert_F, \epsilon)}, \qquad
            X_k = a X_{k-1} + (b G + c G^2) X_{k-1}, \quad G = X_{k-1} X_{k-1}^T \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \, \rho \, X_n

    A leaf of more than two dimensions is a stack of matrices in its last two, each stepped by itself. Of the kernels of
    convolutions :func:`~optimfx.as_matrices` makes matrices. For a model with other leaves too:
    ``fx.partition({True: fx.as_matrices(fx.muon()), False: fx.adamw()}, fx.is_matrix)``.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units per unit of spectral norm.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        momentum: decay :math:`\mu` of the average, in [0, 1).
        nesterov: look ahead along the average.
        ns_coefficients: :math:`(a, b, c)` of the polynomial; or a triple for each step, of which the last serves all
            further ones; or their name, ``"dion"`` or ``"polar_express"``.
        eps: :math:`\epsilon \ge 0`, the least norm that is divided by, in gradient units.
        ns_steps: :math:`n`, from 0 to 99, how often the polynomial is applied.
        adjust_lr_fn: :math:`\rho` of a :math:`p \times q` matrix: ``"original"`` (and ``None``)
            :math:`\sqrt{\max(1, p / q)}`; ``"match_rms_adamw"`` :math:`0.2 \sqrt{\max(p, q)}`, with which AdamW's
            ``lr`` and decay carry over.
        maximize: maximize the objective; weight decay still shrinks the parameters.
        ns_dtype: the dtype in which the polynomial is computed; ``None`` for that of the parameter.

    Returns:
        A transformation with state :class:`MuonState`: ``step`` and ``momentum_buffer`` (like the parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. Liu et al., Muon is Scalable for
        LLM Training, 2025 (``match_rms_adamw``). Amsel et al., The Polar Express: Optimal Matrix Sign Methods and
        Their Application to the Muon Algorithm, 2025.

    Differs from torch in taking stacks of matrices; from Optax, whose momentum is another average.

    >>> import torch, optimfx as fx
    >>> tx = fx.muon(lr=0.1, weight_decay=0.0, ns_dtype=None)
    >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), tx.init(torch.zeros(2, 2)))[0]
    tensor([[-0.0723, -0.0000],
            [-0.0000, -0.1119]])
    """
    check_count(Interval(0, 100), ns_steps=ns_steps)
    ns_coefficients = newton_schulz_triples(ns_coefficients)
    if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
        raise ValueError(f"adjust_lr_fn must be None, 'original' or 'match_rms_adamw'; got {adjust_lr_fn!r}.")
    hyper = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
    polynomial = {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps, "ns_dtype": ns_dtype}
    how = {**polynomial, "adjust_lr_fn": adjust_lr_fn}
    return transformation("muon", MUON, maximize=maximize, state_dtype=state_dtype, **hyper, **how)
