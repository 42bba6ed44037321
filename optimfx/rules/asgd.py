"""ASGD. Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Real,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation


class ASGDState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    eta: PyTree  # shape=() per leaf: the learning rate of the next step
    mu: PyTree  # shape=() per leaf: the weight of the next parameter in the average (no moment)
    ax: PyTree  # like the parameters: their average


class Scalars(NamedTuple):
    eta: Scalar
    mu: Scalar
    lr: Scalar  # of this step
    shrinkage: Scalar  # lambd lr
    weight: Scalar  # of this step's parameter in the average
    copies: Any  # whether the average is that parameter: weight = 1
    weight_decay: Scalar | None


def begin(lr: Hyper) -> tuple[Scalar, Scalar]:
    return ops.initial(lr), 1.0


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def scalars(
    step: Scalar, eta: Scalar, mu: Scalar, lr: Scalar, lambd: Scalar, alpha: Scalar, t0: Scalar, weight_decay: Scalar
) -> Scalars:
    return Scalars(
        eta=lr / (1 + lambd * lr * step) ** alpha,
        mu=1 / ops.maximum(step - t0, 1),
        lr=eta,
        shrinkage=lambd * eta,
        weight=mu,
        copies=mu == 1,
        weight_decay=ops.unless_zero(weight_decay),
    )


def leaf(base: Array, param: Array, grad: Array, ax: Array, s: Scalars) -> tuple[Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    stepped = ops.add(ops.decay(param, param, s.shrinkage), grad, alpha=-s.lr)
    result = stepped if base is not None else ops.add(ops.decay(None, param, s.shrinkage), grad, alpha=-s.lr)
    if s.copies is True:  # until step t0; usually a Python bool
        return result, stepped
    return result, ops.where(s.copies, stepped, ax + (stepped - ax) * s.weight)


ASGD = Rule(leaf, scalars, init, ASGDState, lambda s: True, carries=("eta", "mu"), begin=begin)


@factory
def asgd(
    lr: NonNegative = 1e-2,
    lambd: NonNegative = 1e-4,
    alpha: NonNegative = 0.75,
    t0: Real = 1e6,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Averaged SGD: a decaying learning rate, and beside the parameters their average from step :math:`t_0` on.

    .. math::
        \theta_t &= (1 - \lambda \eta_t) \, \theta_{t-1} - \eta_t g_t, \qquad
            \eta_t = \frac{\gamma}{(1 + \lambda \gamma (t - 1))^\alpha} \\
        \bar\theta_t &= \bar\theta_{t-1} + \mu_t (\theta_t - \bar\theta_{t-1}), \qquad
            \mu_t = \frac{1}{\max(1, t - 1 - t_0)}

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units per gradient unit.
        lambd: decay :math:`\lambda \ge 0`, of the parameters and of the learning rate.
        alpha: power :math:`\alpha \ge 0` of the learning rate's decay.
        t0: the step :math:`t_0` from which parameters are averaged.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.

    Returns:
        A transformation with state :class:`ASGDState`: ``step``, ``eta`` and ``mu`` (0-d, float64), and the average
        ``ax`` (like the parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992. Bottou, Large-Scale Machine
        Learning with Stochastic Gradient Descent, 2010 (``alpha``).

    Differs from torch, which keeps ``eta`` and ``mu`` in the default dtype. Optax has no ASGD.

    >>> import torch, optimfx as fx
    >>> tx = fx.asgd(lr=0.1, lambd=0.0, t0=0.0)
    >>> params = {"w": torch.tensor([1.0])}
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     params, state = fx.step(tx, {"w": torch.ones(1)}, state, params)
    >>> params["w"], state.ax["w"]
    (tensor([0.7000]), tensor([0.7500]))
    """
    hyper = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
    return transformation("asgd", ASGD, maximize=maximize, state_dtype=state_dtype, **hyper)
