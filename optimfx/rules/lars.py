"""LARS. You et al., Large Batch Training of Convolutional Networks, 2017."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, DType, GradientTransformation, Locality, NonNegative, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.rules import sgd


class Scalars(NamedTuple):
    lr: Scalar
    weight_decay: Scalar | None
    trust_coefficient: Scalar
    eps: Scalar
    sgd: sgd.Scalars  # of the scaled gradient, whose size already has the learning rate


def trust_ratio(param: Array, update: Array, trust_coefficient: Scalar, eps: Scalar, min_norm: Scalar = 0.0) -> Array:
    """Divide the size of a leaf by that of its update, each ``min_norm`` at least; return 1 where either is 0."""
    param_norm = ops.maximum(ops.norm(param), min_norm)
    update_norm = ops.maximum(ops.norm(update), min_norm)
    either_is_zero = (param_norm == 0) | (update_norm == 0)
    ratio = trust_coefficient * param_norm / ops.where(either_is_zero, 1.0, update_norm + eps)
    return ops.where(either_is_zero, 1.0, ratio)


def scalars(
    step: Scalar,
    lr: Scalar,
    momentum: Scalar,
    weight_decay: Scalar,
    trust_coefficient: Scalar,
    eps: Scalar,
    nesterov: bool,
) -> Scalars:
    descend = sgd.scalars(step, 1.0, momentum, dampening=0.0, weight_decay=0.0, nesterov=nesterov, sign=False)
    return Scalars(lr, ops.unless_zero(weight_decay), trust_coefficient, eps, descend)


def leaf(base: Array, param: Array, grad: Array, momentum_buffer: Array, s: Scalars) -> tuple[Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    scaled = grad * (s.lr * trust_ratio(param, grad, s.trust_coefficient, s.eps))
    return sgd.leaf(base, param, scaled, momentum_buffer, s.sgd)


LARS = Rule(leaf, scalars, sgd.init, sgd.SGDState, reads_param=lambda s: True, locality=Locality.NORM)


@factory
def lars(
    lr: NonNegative = 1e-3,
    momentum: NonNegative = 0.9,
    weight_decay: NonNegative = 0.0,
    trust_coefficient: NonNegative = 1e-3,
    eps: NonNegative = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""LARS: :func:`~optimfx.sgd` whose step is, leaf by leaf, a fraction of the parameter's size.

    .. math::
        g_t &\leftarrow g_t + \lambda \theta_{t-1}, \qquad
            r_t = \eta \, \frac{\lVert \theta_{t-1} \rVert_2}{\lVert g_t \rVert_2 + \epsilon} \\
        b_t &= \mu b_{t-1} + \gamma r_t g_t, \qquad
            \theta_t = \theta_{t-1} - b_t \quad\text{or, with Nesterov,}\quad \theta_{t-1} - (\gamma r_t g_t + \mu b_t)

    The norms are those of a whole leaf; where one is 0, the trust ratio :math:`r_t` is 1.

    Args:
        lr: learning rate :math:`\gamma \ge 0`, dimensionless: the parameters' size is in the trust ratio.
        momentum: decay :math:`\mu \ge 0` of the buffer; 0 keeps none.
        weight_decay: L2 coefficient :math:`\lambda \ge 0`, added to the gradient.
        trust_coefficient: :math:`\eta \ge 0`, the fraction.
        eps: :math:`\epsilon \ge 0`, added to the gradient's norm, in gradient units.
        nesterov: look ahead along the buffer.

    Returns:
        A transformation with state :class:`~optimfx.rules.sgd.SGDState`: ``step`` and ``momentum_buffer`` (like the
        parameters, ``()`` without momentum).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        You et al., Large Batch Training of Convolutional Networks, 2017.

    As Optax's, except for a default ``lr``; for its masks, use :func:`~optimfx.partition`. torch has no LARS.

    >>> import torch, optimfx as fx
    >>> tx = fx.lars(lr=1.0, trust_coefficient=0.1)
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> updates, state = tx.update({"w": torch.tensor([0.0, 2.0])}, tx.init(params), params)
    >>> updates["w"]
    tensor([-0.0000, -0.5000])
    """
    hyper = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps}
    ratio = {"trust_coefficient": trust_coefficient, "nesterov": nesterov}
    return transformation("lars", LARS, maximize=maximize, state_dtype=state_dtype, **hyper, **ratio)
