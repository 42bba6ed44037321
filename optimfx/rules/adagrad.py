"""Adagrad. Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, DType, GradientTransformation, Hyper, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class AdagradState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    sum: PyTree  # like the parameters: sum of the squared gradients


class Scalars(NamedTuple):
    lr: Scalar  # after its own decay
    eps: Scalar
    weight_decay: Scalar | None


def init(param: Array, initial_accumulator_value: Hyper) -> tuple[Array]:
    return (ops.full_like(param, ops.initial(initial_accumulator_value)),)


def scalars(step: Scalar, lr: Scalar, lr_decay: Scalar, weight_decay: Scalar, eps: Scalar) -> Scalars:
    return Scalars(lr / (1 + (step - 1) * lr_decay), eps, ops.unless_zero(weight_decay))


def leaf(base: Array, param: Array, grad: Array, sum: Array, s: Scalars) -> tuple[Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    sum = ops.addcmul(sum, grad, grad)
    return ops.addcdiv(base, grad, ops.sqrt(sum) + s.eps, value=-s.lr), sum


ADAGRAD = Rule(
    leaf,
    scalars,
    init,
    AdagradState,
    reads_param=lambda s: s.weight_decay is not None,
    sparse=lambda s: s.weight_decay is None,
    aten="adagrad",
)


@factory
def adagrad(
    lr: NonNegative = 1e-2,
    lr_decay: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    initial_accumulator_value: NonNegative = 0.0,
    eps: NonNegative = 1e-10,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adagrad: steps scaled by all squared gradients so far.

    .. math::
        s_t = s_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1} - \frac{\gamma}{1 + (t - 1) \eta} \, \frac{g_t}{\sqrt{s_t} + \epsilon}

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of the first step, in parameter units.
        lr_decay: :math:`\eta \ge 0`, by which the learning rate falls with the step.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.
        initial_accumulator_value: :math:`s_0 \ge 0`, in squared gradient units; each part of a complex number has it.
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`AdagradState`: ``step`` and ``sum`` (like the parameters).

    References:
        Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011.

    Sparse gradients are supported without decay; only the elements that they hold are stepped.

    Differs from Optax, which puts ``eps`` under the root and begins with a sum of 0.1.

    >>> import torch, optimfx as fx
    >>> tx = fx.adagrad(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([4.0, -40.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1000,  0.1000])
    """
    hyper = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
    start = {"initial_accumulator_value": initial_accumulator_value}
    return transformation("adagrad", ADAGRAD, maximize=maximize, state_dtype=state_dtype, **hyper, **start)
