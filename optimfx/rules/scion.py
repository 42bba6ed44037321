"""Scion. Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, 2025."""

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
    Rule,
    Scalar,
    check_count,
    factory,
)
from optimfx.execution import transformation
from optimfx.rules._shared.linalg import Triple, newton_schulz_triples, orthogonalize
from optimfx.rules.muon import MuonState, average, init, unsupported_reason


class Scalars(NamedTuple):
    size: Scalar  # lr scale
    momentum: Scalar
    weight: Scalar  # 1 - momentum
    shrinkage: Scalar | None  # lr, where the parameters stay within the ball
    newton_schulz: tuple[Any, ...]  # arguments of orthogonalize
    norm: str


def scalars(
    step: Scalar,
    lr: Scalar,
    momentum: Scalar,
    scale: Scalar,
    norm: str,
    constrained: bool,
    ns_coefficients: tuple[Any, ...],
    ns_steps: int,
    ns_dtype: DType | None,
) -> Scalars:
    newton_schulz = ns_coefficients, ns_steps, 1e-7, ns_dtype
    return Scalars(lr * scale, momentum, 1 - momentum, lr if constrained else None, newton_schulz, norm)


def leaf(base: Array, param: Array, grad: Array, momentum_buffer: Array, s: Scalars) -> tuple[Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    _, momentum_buffer = average(grad, momentum_buffer, s.momentum, s.weight, nesterov=False)
    rows, columns = grad.shape[-2:]
    if s.norm == "sign":
        direction, factor = ops.sign(momentum_buffer), 1 / max(1, columns)
    else:
        direction = orthogonalize(momentum_buffer, *s.newton_schulz)
        factor = ops.sqrt(rows / max(1, columns))
    return ops.add(base, direction, alpha=-(s.size * factor)), momentum_buffer


SCION = Rule(
    leaf,
    scalars,
    init,
    MuonState,
    lambda s: s.shrinkage is not None,
    locality=Locality.MATRIX,
    unsupported_reason=unsupported_reason,
)


@factory
def scion(
    lr: NonNegative = 1e-3,
    momentum: Decay = 0.9,
    scale: NonNegative = 50.0,
    norm: str = "spectral",
    constrained: bool = False,
    ns_coefficients: Triple | str = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    ns_dtype: DType | None = BFLOAT16,
) -> GradientTransformation:
    r"""Scion: steps to where the averaged gradient is least on a ball of matrices, whose norm suits their layer.

    .. math::
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad
            \theta_t = \theta_{t-1} - \gamma \rho \, d_t
            \;\text{ or, constrained,}\; (1 - \gamma) \, \theta_{t-1} - \gamma \rho \, d_t \\
        d_t &= \sqrt{p / q} \, \operatorname{orthogonalize}(m_t) \;\text{(spectral)}, \qquad
            d_t = \operatorname{sign}(m_t) / q \;\text{(sign)}

    for a :math:`p \times q` matrix. ``"spectral"`` is for hidden layers, ``"sign"`` for the last one, mostly with a
    much larger radius. Constrained, the parameters stay within the ball of radius :math:`\rho`, if they began there. A
    leaf of more than two dimensions is a stack of matrices in its last two; of kernels :func:`~optimfx.as_matrices`
    makes matrices.

    Args:
        lr: learning rate :math:`\gamma \ge 0`.
        momentum: decay :math:`\mu` of the average, in [0, 1).
        scale: radius :math:`\rho \ge 0`, in parameter units.
        norm: ``"spectral"`` or ``"sign"``.
        constrained: keep the parameters within the ball, as a weight decay of 1 does.
        ns_coefficients: as in :func:`~optimfx.muon`.
        ns_steps: from 0 to 99, how often the polynomial is applied.
        maximize: maximize the objective; the constraint stays.
        ns_dtype: the dtype in which the polynomial is computed; ``None`` for that of the parameter.

    Returns:
        A transformation with state :class:`~optimfx.rules.muon.MuonState`: ``step`` and ``momentum_buffer`` (like the
        parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is not a matrix.

    References:
        Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, 2025.

    The authors' ``momentum`` is :math:`1 - \mu`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scion(lr=0.1, scale=2.0, norm="sign")
    >>> tx.update(torch.tensor([[3.0, 0.0], [0.0, -4.0]]), tx.init(torch.zeros(2, 2)))[0]
    tensor([[-0.1000, -0.0000],
            [-0.0000,  0.1000]])
    """
    check_count(Interval(0, 100), ns_steps=ns_steps)
    if norm not in ("spectral", "sign"):
        raise ValueError(f"norm must be 'spectral' or 'sign'; got {norm!r}.")
    hyper = {"lr": lr, "momentum": momentum, "scale": scale, "norm": norm, "constrained": constrained}
    polynomial = {"ns_coefficients": newton_schulz_triples(ns_coefficients), "ns_steps": ns_steps, "ns_dtype": ns_dtype}
    return transformation("scion", SCION, maximize=maximize, state_dtype=state_dtype, **hyper, **polynomial)
