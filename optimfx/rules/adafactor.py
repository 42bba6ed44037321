"""Adafactor. Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    NON_NEGATIVE,
    Array,
    AtLeastOne,
    DType,
    GradientTransformation,
    Hyper,
    Locality,
    NonPositive,
    PyTree,
    Rule,
    Scalar,
    check_hyper,
    check_tuple,
    factory,
)
from optimfx.execution import transformation


class AdafactorState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    row_var: PyTree  # shape=(..., n, 1) for a leaf of shape (..., n, m): second moment of each row; else ()
    col_var: PyTree  # shape=(..., 1, m): second moment of each column; else ()
    variance: PyTree  # like the parameter, where that has fewer than two dimensions: second moment; else ()


class Scalars(NamedTuple):
    rho: Scalar  # the largest relative step
    weight: Scalar  # of the new gradient in the second moment
    eps1: Scalar | None
    eps2: Scalar
    d: Scalar
    shrinkage: Scalar | None  # lr weight_decay


def unsupported_reason(param: Array) -> str | None:
    return "adafactor factors the second moment of real matrices" if param.is_complex() else None


def init(param: Array) -> tuple[Array, Array, Array]:
    if param.dim() < 2:
        return None, None, ops.zeros_like(param)
    *stack, rows, columns = param.shape
    return ops.zeros(param, (*stack, rows, 1)), ops.zeros(param, (*stack, 1, columns)), None


def scalars(
    step: Scalar, lr: Scalar, beta2_decay: Scalar, eps: tuple[Scalar | None, Scalar], d: Scalar, weight_decay: Scalar
) -> Scalars:
    shrinkage = ops.decay_terms(lr, weight_decay)[1]
    return Scalars(ops.minimum(lr, 1 / step**0.5), step**beta2_decay, *eps, d, shrinkage)


def leaf(
    base: Array, param: Array, grad: Array, row_var: Array, col_var: Array, variance: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    eps1 = ops.epsilon(grad) if s.eps1 is None else s.eps1
    size = ops.maximum(ops.rms(param), s.eps2) * s.rho
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    if variance is None:
        rows, columns = grad.shape[-2:]
        row_var = ops.lerp(row_var, ops.norm(grad, dim=-1) ** 2 / max(1, columns), s.weight)
        col_var = ops.lerp(col_var, ops.norm(grad, dim=-2) ** 2 / max(1, rows), s.weight)
        estimate = row_var @ col_var / ops.maximum(ops.mean(row_var, dim=-2), eps1)
    else:
        estimate = variance = ops.lerp(variance, grad * grad, s.weight)
    update = ops.rsqrt(ops.maximum(estimate, eps1 * eps1)) * grad
    return ops.add(base, update, alpha=-size / ops.maximum(ops.rms(update, s.d), 1.0)), row_var, col_var, variance


ADAFACTOR = Rule(
    leaf, scalars, init, AdafactorState, lambda s: True, locality=Locality.TENSOR, unsupported_reason=unsupported_reason
)


@factory
def adafactor(
    lr: Hyper = 1e-2,
    beta2_decay: NonPositive = -0.8,
    eps: tuple[Hyper | None, Hyper] = (None, 1e-3),
    d: AtLeastOne = 1.0,
    weight_decay: Hyper = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adafactor: a second moment of rows and columns instead of elements, and steps relative to the parameter.

    .. math::
        \beta_t &= 1 - t^{\tau}, \qquad
            \alpha_t = \max(\epsilon_2, \operatorname{RMS}(\theta_{t-1})) \min(\gamma, 1 / \sqrt{t}) \\
        R_t &= \beta_t R_{t-1} + (1 - \beta_t) \operatorname{mean}_{\text{columns}}(G_t^2), \qquad
            C_t = \beta_t C_{t-1} + (1 - \beta_t) \operatorname{mean}_{\text{rows}}(G_t^2) \\
        V_t &= \frac{R_t C_t}{\max(\operatorname{mean}(R_t), \epsilon_1)}, \qquad
            U_t = \frac{G_t}{\max(\sqrt{V_t}, \epsilon_1)} \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \frac{\alpha_t}{\max(1, \operatorname{RMS}(U_t) / d)} \, U_t

    A leaf of fewer than two dimensions is not factored: :math:`V_t = \beta_t V_{t-1} + (1 - \beta_t) G_t^2`. One of
    more is a stack of matrices in its last two; the RMS is of the whole leaf.

    Args:
        lr: the largest relative step :math:`\gamma \ge 0`, dimensionless.
        beta2_decay: :math:`\tau \le 0`: how fast the second moment's memory grows.
        eps: :math:`\epsilon_1 \ge 0`, in gradient units, or ``None`` for the machine epsilon of the dtype computed in;
            :math:`\epsilon_2 \ge 0`, the least size that a parameter counts as.
        d: the largest RMS of a scaled gradient, at least 1.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`AdafactorState`: ``step``; ``row_var`` and ``col_var``, or ``variance``.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``init``, a leaf is complex; at
            ``update``, no ``params``.

    References:
        Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018.

    As torch's, which differs from the paper and from Optax in where :math:`\epsilon_1` stands and what ``lr`` does.

    >>> import torch, optimfx as fx
    >>> tx = fx.adafactor(lr=0.1)
    >>> params = {"w": torch.ones(3, 2), "b": torch.ones(2)}
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates["b"], state.row_var["w"].shape, state.row_var["b"]
    (tensor([-0.1000, -0.1000]), torch.Size([3, 1]), ())
    """
    check_tuple("eps", eps, "eps1", "eps2")
    eps1, eps2 = eps
    check_hyper(NON_NEGATIVE, lr=lr, weight_decay=weight_decay, eps2=eps2, **({} if eps1 is None else {"eps1": eps1}))
    hyper = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
    return transformation("adafactor", ADAFACTOR, maximize=maximize, state_dtype=state_dtype, **hyper)
