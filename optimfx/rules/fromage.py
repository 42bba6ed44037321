"""Fromage. Bernstein et al., On the Distance between Two Neural Networks and the Stability of Learning, 2020."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Locality, NonNegative, Rule, Scalar, factory
from optimfx.execution import transformation
from optimfx.rules.lars import trust_ratio


class Scalars(NamedTuple):
    size: Scalar  # lr / (1 + lr^2)^(1/2)
    shrinkage: Scalar  # 1 - 1 / (1 + lr^2)^(1/2)
    min_norm: Scalar


def scalars(step: Scalar | None, lr: Scalar, min_norm: Scalar) -> Scalars:
    cosine = 1 / (1 + lr * lr) ** 0.5
    return Scalars(lr * cosine, 1 - cosine, min_norm)


def leaf(base: Array, param: Array, grad: Array, s: Scalars) -> tuple[Array]:
    ratio = trust_ratio(param, grad, 1.0, 0.0, s.min_norm)
    return (ops.add(ops.decay(base, param, s.shrinkage), grad, alpha=-(ratio * s.size)),)


FROMAGE = Rule(leaf, scalars, reads_param=lambda s: True, locality=Locality.NORM)


@factory
def fromage(lr: NonNegative = 1e-2, min_norm: NonNegative = 1e-6, *, maximize: bool = False) -> GradientTransformation:
    r"""Fromage: steps of a relative size, which leave the norm of a parameter about as it is.

    .. math::
        \theta_t = \frac{1}{\sqrt{1 + \gamma^2}} \left(\theta_{t-1} -
            \gamma \frac{\lVert \theta_{t-1} \rVert}{\lVert g_t \rVert} g_t \right)

    Where a norm is 0, the gradient is taken as it is.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, relative to the parameter.
        min_norm: the least norm, at least 0, that a parameter and a gradient count as.

    Returns:
        A transformation without state (a step count, when a hyperparameter is a schedule).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Bernstein et al., On the Distance between Two Neural Networks and the Stability of Learning, 2020.

    As Optax's, but in one pass. torch has no Fromage.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.fromage(lr=0.75), {"w": torch.tensor([3.0, 4.0])}
    >>> fx.step(tx, {"w": torch.tensor([0.0, 2.0])}, tx.init(params), params)[0]
    {'w': tensor([2.4000, 0.2000])}
    """
    return transformation("fromage", FROMAGE, maximize=maximize, lr=lr, min_norm=min_norm)
