"""Adam. Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class AdamState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment
    max_exp_avg_sq: PyTree  # like the parameters: its largest value so far; () without amsgrad


class Scalars(NamedTuple):
    step_size: Scalar  # lr / (1 - beta1^t)
    bias_correction2_sqrt: Scalar  # sqrt(1 - beta2^t)
    weight1: Scalar  # 1 - beta1
    beta2: Scalar
    weight2: Scalar  # 1 - beta2
    eps: Scalar
    eps_root: Scalar | None
    weight_decay: Scalar | None  # added to the gradient
    shrinkage: Scalar | None  # lr weight_decay, subtracted from the parameter


def init(param: Array, amsgrad: bool) -> tuple[Array, Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param), ops.zeros_like(param) if amsgrad else None


def scalars(
    step: Scalar,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: Scalar,
    eps_root: Scalar,
    weight_decay: Scalar,
    decoupled_weight_decay: bool,
) -> Scalars:
    beta1, beta2 = betas
    bias_correction1 = 1 - beta1**step
    bias_correction2 = 1 - beta2**step
    l2, shrinkage = ops.decay_terms(lr, weight_decay, decoupled_weight_decay)
    return Scalars(
        step_size=lr / bias_correction1,
        bias_correction2_sqrt=bias_correction2**0.5,
        weight1=1 - beta1,
        beta2=beta2,
        weight2=1 - beta2,
        eps=eps,
        eps_root=None if ops.is_zero(eps_root) else eps_root * bias_correction2,
        weight_decay=l2,
        shrinkage=shrinkage,
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, max_exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array, Array]:
    if s.weight_decay is not None:
        grad = ops.add(grad, param, alpha=s.weight_decay)
    if s.shrinkage is not None:
        base = ops.decay(base, param, s.shrinkage)
    exp_avg = ops.lerp(exp_avg, grad, s.weight1)
    exp_avg_sq = ops.addcmul(exp_avg_sq * s.beta2, grad, grad, value=s.weight2)
    second = exp_avg_sq
    if max_exp_avg_sq is not None:
        second = max_exp_avg_sq = ops.maximum(max_exp_avg_sq, exp_avg_sq)
    if s.eps_root is not None:
        second = second + s.eps_root
    denom = ops.sqrt(second) / s.bias_correction2_sqrt + s.eps
    return ops.addcdiv(base, exp_avg, denom, value=-s.step_size), exp_avg, exp_avg_sq, max_exp_avg_sq


ADAM = Rule(
    leaf,
    scalars,
    init,
    AdamState,
    reads_param=lambda s: s.weight_decay is not None or s.shrinkage is not None,
    aten="adam",
)


@factory
def adam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    decoupled_weight_decay: bool = False,
    eps_root: NonNegative = 0.0,
) -> GradientTransformation:
    r"""Adam: steps scaled by running averages of the gradient and of its square.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \hat m_t &= \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}, \qquad
            \theta_t = \theta_{t-1} - \gamma \, \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, added to the gradient as :math:`\lambda \theta`; with
            ``decoupled_weight_decay``, subtracted from the parameter as :math:`\gamma \lambda \theta`.
        amsgrad: divide by the largest second moment so far.
        decoupled_weight_decay: decay as :func:`adamw` does.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added under the root, in squared gradient units: keeps the
            derivative of the update finite where the second moment is 0.

    Returns:
        A transformation with state :class:`AdamState`: ``step``, ``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq`` (the
        last ``()`` without ``amsgrad``), each like the parameters.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015. Reddi et al., On the Convergence of Adam and
        FromFactory, 2018 (``amsgrad``).

    Differs from Optax: ``amsgrad`` takes the maximum before the bias correction, as torch does.

    >>> import torch, optimfx as fx
    >>> tx = fx.adam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1000, -0.1000])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    flags = {"amsgrad": amsgrad, "decoupled_weight_decay": decoupled_weight_decay}
    name = "adamw" if decoupled_weight_decay else "adam"
    return transformation(name, ADAM, maximize=maximize, state_dtype=state_dtype, **hyper, **flags)
