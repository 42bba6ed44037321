"""Lion. Chen et al., Symbolic Discovery of Optimization Algorithms, 2023."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class LionState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: momentum


class Scalars(NamedTuple):
    lr: Scalar
    weight1: Scalar  # 1 - beta1
    weight2: Scalar  # 1 - beta2
    shrinkage: Scalar | None  # lr weight_decay


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], weight_decay: Scalar) -> Scalars:
    beta1, beta2 = betas
    return Scalars(lr, 1 - beta1, 1 - beta2, ops.decay_terms(lr, weight_decay)[1])


def leaf(base: Array, param: Array, grad: Array, exp_avg: Array, s: Scalars) -> tuple[Array, Array]:
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    direction = ops.sign(ops.lerp(exp_avg, grad, s.weight1))
    return ops.add(base, direction, alpha=-s.lr), ops.lerp(exp_avg, grad, s.weight2)


LION = Rule(leaf, scalars, init, LionState, reads_param=lambda s: s.shrinkage is not None)


@factory
def lion(
    lr: NonNegative = 1e-4,
    betas: Betas = (0.9, 0.99),
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Lion: the sign of a momentum that looks ahead.

    .. math::
        c_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t \\
        \theta_t &= (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \operatorname{sign}(c_t)

    Args:
        lr: learning rate :math:`\gamma \ge 0`: every element moves by it, in parameter units.
        betas: :math:`\beta_1` of the direction and :math:`\beta_2` of the momentum, each in [0, 1).
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`LionState`: ``step`` and ``exp_avg`` (like the parameters).

    References:
        Chen et al., Symbolic Discovery of Optimization Algorithms, 2023; defaults are the paper's.

    Differs from Optax, whose default decay is 1e-3. torch has no Lion.

    >>> import torch, optimfx as fx
    >>> tx = fx.lion(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1000,  0.1000])
    """
    return transformation(
        "lion", LION, maximize=maximize, state_dtype=state_dtype, lr=lr, betas=betas, weight_decay=weight_decay
    )
