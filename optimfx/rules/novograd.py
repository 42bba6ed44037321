"""NovoGrad. Ginsburg et al., Stochastic Gradient Methods with Layer-wise Adaptive Moments, 2019."""

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


class NovoGradState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: momentum of the scaled gradient
    exp_avg_sq: PyTree  # shape=() per leaf: average of the gradient's squared norm


class Scalars(NamedTuple):
    lr: Scalar
    beta1: Scalar
    beta2: Scalar  # and 0 at the first step
    weight2: Scalar  # 1 - beta2, and 1 at the first step
    eps: Scalar
    eps_root: Scalar
    weight_decay: Scalar | None


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros(param, ())


def scalars(
    step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar, eps_root: Scalar, weight_decay: Scalar
) -> Scalars:
    beta1, beta2 = betas
    return Scalars(
        lr=lr,
        beta1=beta1,
        beta2=ops.where(step == 1, 0.0, beta2),
        weight2=ops.where(step == 1, 1.0, 1 - beta2),
        eps=eps,
        eps_root=eps_root,
        weight_decay=ops.unless_zero(weight_decay),
    )


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    exp_avg_sq = ops.add(exp_avg_sq * s.beta2, ops.norm(grad) ** 2 * s.weight2)
    scaled = grad / (ops.sqrt(exp_avg_sq + s.eps_root) + s.eps)
    if s.weight_decay is not None:
        scaled = ops.add(scaled, param, alpha=s.weight_decay)
    exp_avg = exp_avg * s.beta1 + scaled
    return ops.add(base, exp_avg, alpha=-s.lr), exp_avg, exp_avg_sq


NOVOGRAD = Rule(
    leaf, scalars, init, NovoGradState, reads_param=lambda s: s.weight_decay is not None, locality=Locality.TENSOR
)


@factory
def novograd(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.25),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 0.0,
) -> GradientTransformation:
    r"""NovoGrad: momentum of gradients that are scaled, leaf by leaf, by the average of their norm.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert_2^2, \qquad v_1 = \lVert g_1 \rVert_2^2 \\
        m_t &= \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t + \epsilon_{\text{root}}} + \epsilon} + \lambda \theta_{t-1},
            \qquad \theta_t = \theta_{t-1} - \gamma m_t

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units: a scaled gradient has a norm of about 1.
        betas: decays of the momentum and of the squared norm, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, added to the scaled gradient.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`NovoGradState`: ``step``, ``exp_avg`` (like the parameters) and
        ``exp_avg_sq`` (0-d per leaf, real).

    References:
        Ginsburg et al., Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks,
        2019.

    As Optax's, except for a default ``lr``. torch has no NovoGrad.

    >>> import torch, optimfx as fx
    >>> tx = fx.novograd(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([3.0, -4.0])}, tx.init(params))
    >>> updates["w"], state.exp_avg_sq["w"]
    (tensor([-0.0600,  0.0800]), tensor(25.))
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    return transformation("novograd", NOVOGRAD, maximize=maximize, state_dtype=state_dtype, **hyper)
