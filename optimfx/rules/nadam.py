"""NAdam. Dozat, Incorporating Nesterov Momentum into Adam, 2016."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class NAdamState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    mu_product: PyTree  # shape=() per leaf: product of the momentum coefficients
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    mu_product: Scalar
    grad_size: Scalar  # lr (1 - mu_t) / (1 - mu_1 ... mu_t)
    momentum_size: Scalar  # lr mu_{t+1} / (1 - mu_1 ... mu_{t+1})
    bias_correction2: Scalar  # 1 - beta2^t
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    eps: Scalar
    weight_decay: Scalar | None  # added to the gradient
    shrinkage: Scalar | None  # lr weight_decay, subtracted from the parameter


def begin() -> tuple[Scalar]:
    return (1.0,)


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(
    step: Scalar,
    mu_product: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
    weight_decay: Scalar,
    momentum_decay: Scalar,
    decoupled_weight_decay: bool,
    carry_dtype: DType | None = None,
) -> Scalars:
    beta1, beta2 = betas
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    mu_product = ops.multiply_in(carry_dtype, mu_product, mu)
    l2, shrinkage = ops.decay_terms(lr, weight_decay, decoupled_weight_decay)
    return Scalars(
        mu_product=mu_product,
        grad_size=lr * (1 - mu) / (1 - mu_product),
        momentum_size=lr * mu_next / (1 - mu_product * mu_next),
        bias_correction2=1 - beta2**step,
        weight1=1 - beta1,
        beta2=beta2,
        weight2=1 - beta2,
        eps=eps,
        weight_decay=l2,
        shrinkage=shrinkage,
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    denom = ops.sqrt(exp_avg_sq / s.bias_correction2) + s.eps
    base = ops.addcdiv(base, grad, denom, value=-s.grad_size)
    return ops.addcdiv(base, exp_avg, denom, value=-s.momentum_size), exp_avg, exp_avg_sq


def _reads_param(s: Scalars) -> bool:
    return s.weight_decay is not None or s.shrinkage is not None


NADAM = Rule(leaf, scalars, init, NAdamState, _reads_param, carries=("mu_product",), begin=begin)


@factory
def nadam(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum_decay: NonNegative = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""NAdam: Adam that looks ahead, with a momentum that grows with the step.

    .. math::
        \mu_t &= \beta_1 \left(1 - \tfrac{1}{2} \, 0.96^{t \psi}\right) \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{\sqrt{\hat v_t} + \epsilon} \left(
            \frac{(1 - \mu_t) g_t}{1 - \mu_1 \cdots \mu_t} + \frac{\mu_{t+1} m_t}{1 - \mu_1 \cdots \mu_{t+1}} \right)

    with :math:`m_t` and the bias-corrected :math:`\hat v_t` of :func:`~optimfx.adam`.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\ge 0`, added to the gradient as L2, or with ``decoupled_weight_decay`` subtracted from the
            parameter as ``lr weight_decay param``.
        momentum_decay: :math:`\psi \ge 0`: how fast the momentum rises to :math:`\beta_1`.
        decoupled_weight_decay: decay as :func:`~optimfx.adamw` does.

    Returns:
        A transformation with state :class:`NAdamState`: ``step``, ``mu_product`` (0-d, float64), ``exp_avg`` and
        ``exp_avg_sq`` (like the parameters).

    References:
        Dozat, Incorporating Nesterov Momentum into Adam, 2016.

    Differs from torch, which keeps ``mu_product`` in the default dtype; from Optax, whose momentum does not grow.

    >>> import torch, optimfx as fx
    >>> tx = fx.nadam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([4.0, -40.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1056,  0.1056])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay}
    flags = {"decoupled_weight_decay": decoupled_weight_decay}
    return transformation("nadam", NADAM, maximize=maximize, state_dtype=state_dtype, **hyper, **flags)
