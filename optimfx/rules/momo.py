"""MoMo. Schaipp et al., MoMo: Momentum Models for Adaptive Learning Rates, 2023."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Decay,
    DType,
    GradientTransformation,
    NonNegative,
    PyTree,
    Real,
    Rule,
    Scalar,
    factory,
)
from optimfx.core.types import Value
from optimfx.execution import transformation
from optimfx.rules._shared.momo import CARRIES, TOTALS, begin, minimize_model


class MomoState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    barf: PyTree  # shape=() per leaf: average of the losses
    gamma: PyTree  # shape=() per leaf: average of the inner products of gradients and parameters
    lb: PyTree  # shape=() per leaf: lower bound of the loss
    exp_avg: PyTree  # like the parameters: first moment


class Scalars(NamedTuple):
    barf: Scalar
    gamma: Scalar
    lb: Scalar
    size: Scalar
    shrinkage: Scalar
    weight: Scalar  # of a gradient in the first moment


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def weight_of(step: Scalar, beta: Scalar) -> Value:
    return ops.where(step == 1, 1, 1 - beta)


def measure(param: Array, grad: Array, exp_avg: Array, step: Scalar, beta: Scalar) -> tuple[Array, Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, weight_of(step, beta))
    return ops.total(grad * param), ops.total(exp_avg * param), ops.total(exp_avg * exp_avg)


def scalars(
    step: Scalar,
    barf: Scalar,
    gamma: Scalar,
    lb: Scalar,
    grad_dot: Scalar,
    avg_dot: Scalar,
    sq_norm: Scalar,
    value: Scalar,
    lr: Scalar,
    beta: Scalar,
    lower_bound: Scalar,
    weight_decay: Scalar,
    adapt_lower_bound: bool,
) -> Scalars:
    weight, totals = weight_of(step, beta), (grad_dot, avg_dot, sq_norm)
    how = (lr, lower_bound, weight_decay, adapt_lower_bound)
    return Scalars(*minimize_model(barf, gamma, lb, totals, value, weight, 1, *how), weight)


def leaf(base: Array, param: Array, grad: Array, exp_avg: Array, s: Scalars) -> tuple[Array, Array]:
    exp_avg = ops.lerp(exp_avg, grad, s.weight)
    return ops.add(ops.decay(base, param, s.shrinkage), exp_avg, alpha=-s.size), exp_avg


MOMO = Rule(
    leaf,
    scalars,
    init,
    MomoState,
    lambda s: True,
    carries=CARRIES,
    begin=begin,
    measure=measure,
    totals=TOTALS,
    extra=("value",),
)


@factory
def momo(
    lr: NonNegative = 1.0,
    beta: Decay = 0.9,
    lower_bound: Real = 0.0,
    weight_decay: NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""MoMo: SGD with momentum whose learning rate is adapted to the value of the loss.

    .. math::
        m_t &= \beta m_{t-1} + (1 - \beta) g_t, \qquad \bar f_t = \beta \bar f_{t-1} + (1 - \beta) f(\theta_{t-1}),
            \qquad c_t = \beta c_{t-1} + (1 - \beta) \langle g_t, \theta_{t-1} \rangle \\
        \tau_t &= \min\left(\gamma, \, \frac{\max((1 + \gamma \lambda) (\bar f_t - f^* - c_t) +
            \langle m_t, \theta_{t-1} \rangle, 0)}{\lVert m_t \rVert^2}\right), \qquad
            \theta_t = \frac{\theta_{t-1}}{1 + \gamma \lambda} - \tau_t m_t

    with inner products and norms over all parameters; the averages begin with their first term. Call it with the value
    of the loss: ``update(grads, state, params, value=loss)``.

    Args:
        lr: :math:`\gamma \ge 0`, the greatest step size.
        beta: :math:`\beta`, decay of the averages, in [0, 1).
        lower_bound: :math:`f^*`, a lower bound of the loss.
        weight_decay: :math:`\lambda \ge 0`.
        adapt_lower_bound: raise the lower bound to what the steps show.
        state_dtype: dtype of the momentum; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`MomoState`: ``step``, ``barf``, ``gamma`` and ``lb`` (0-d, float64), and
        ``exp_avg`` (like the parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params`` or no
            ``value``.

    References:
        Schaipp et al., MoMo: Momentum Models for Adaptive Learning Rates, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.momo(), {"w": torch.tensor([2.0])}
    >>> fx.step(tx, {"w": torch.tensor([4.0])}, tx.init(params), params, value=4.0)[0]
    {'w': tensor([1.])}
    """
    hyper: dict[str, Value] = {"lr": lr, "beta": beta, "lower_bound": lower_bound, "weight_decay": weight_decay}
    return transformation("momo", MOMO, state_dtype=state_dtype, adapt_lower_bound=adapt_lower_bound, **hyper)
