"""LAMB. You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, 2020."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Betas,
    DType,
    GradientTransformation,
    Locality,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    factory,
)
from optimfx.execution import transformation
from optimfx.rules import adam
from optimfx.rules.lars import trust_ratio


class LAMBState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    lr: Scalar
    weight_decay: Scalar | None
    adam: adam.Scalars  # of Adam's direction


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(
    step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, eps_root: Scalar, weight_decay: Scalar
) -> Scalars:
    direction = adam.scalars(step, -1.0, betas, eps, eps_root, weight_decay=0.0, decoupled_weight_decay=False)
    return Scalars(lr, ops.unless_zero(weight_decay), direction)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    direction, exp_avg, exp_avg_sq, _ = adam.leaf(None, param, grad, exp_avg, exp_avg_sq, None, s.adam)
    if s.weight_decay is not None:
        direction = ops.add(direction, param, alpha=s.weight_decay)
    size = s.lr * trust_ratio(param, direction, 1.0, 0.0)
    return ops.add(base, direction, alpha=-size), exp_avg, exp_avg_sq


LAMB = Rule(leaf, scalars, init, LAMBState, reads_param=lambda s: True, locality=Locality.NORM)


@factory
def lamb(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 0.0,
) -> GradientTransformation:
    r"""LAMB: Adam's direction, with a step that is, leaf by leaf, in proportion to the parameter's norm.

    .. math::
        u_t = \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon} + \lambda \theta_{t-1}, \qquad
        \theta_t = \theta_{t-1} - \gamma \, \frac{\lVert \theta_{t-1} \rVert_2}{\lVert u_t \rVert_2} \, u_t

    The moments are those of :func:`~optimfx.adam`, bias-corrected. The norms are those of a whole leaf; where one is 0,
    their ratio is taken as 1.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the ratio of the step's norm to the parameter's.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, in the direction that is scaled.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`LAMBState`: ``step``, ``exp_avg`` and ``exp_avg_sq`` (like the parameters).

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, 2020.

    As Optax's, except for a default ``lr``. torch has no LAMB.

    >>> import torch, optimfx as fx
    >>> tx = fx.lamb(lr=0.1)
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> updates, state = tx.update({"w": torch.tensor([0.5, -2.0])}, tx.init(params), params)
    >>> updates["w"]
    tensor([-0.3536,  0.3536])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    return transformation("lamb", LAMB, maximize=maximize, state_dtype=state_dtype, **hyper)
