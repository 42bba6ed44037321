"""Algorithms that are chains of links, or options of another, under the names that Optax has for them."""

from __future__ import annotations

from optimfx.combinators.chain import chain
from optimfx.core import Betas, Decay, DType, GradientTransformation, NonNegative, Real, factory
from optimfx.rules.adam import adam
from optimfx.rules.nadam import nadam
from optimfx.rules.signsgd import signsgd
from optimfx.transforms.optimistic import scale_by_optimistic_gradient
from optimfx.transforms.scale import scale_by_lr
from optimfx.transforms.scale_by_adam import scale_by_adam, scale_by_adamax
from optimfx.transforms.scale_by_past import scale_by_acprop, scale_by_simplified_ademamix
from optimfx.transforms.weight_decay import add_decayed_weights


@factory
def amsgrad(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adam that divides by the largest second moment so far: :func:`~optimfx.adam` with ``amsgrad=True``.

    Args:
        lr: learning rate :math:`\ge 0`.
        betas: decays of the moments, each in [0, 1).
        eps: :math:`\ge 0`, added to the root of the second moment, in gradient units.

    Returns:
        A transformation with the state of :func:`~optimfx.adam`.

    References:
        Reddi et al., On the Convergence of Adam and Beyond, 2018.

    Differs from Optax, which takes the maximum after the bias correction.

    >>> import optimfx as fx
    >>> fx.amsgrad(1e-3)
    adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, amsgrad=True)
    """
    return adam(lr, betas, eps, amsgrad=True, state_dtype=state_dtype)


@factory
def nadamw(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    momentum_decay: NonNegative = 4e-3,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""NAdam with decoupled weight decay: :func:`~optimfx.nadam` with ``decoupled_weight_decay=True``.

    Args:
        lr: learning rate :math:`\ge 0`.
        betas: decays of the moments, each in [0, 1).
        eps: :math:`\ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\ge 0`, subtracted from the parameter as ``lr weight_decay param``.
        momentum_decay: :math:`\ge 0`, how fast the momentum grows to ``betas[0]``.

    Returns:
        A transformation with the state of :func:`~optimfx.nadam`.

    References:
        Dozat, Incorporating Nesterov Momentum into Adam, 2016. Loshchilov and Hutter, Decoupled Weight Decay
        Regularization, 2019.

    Differs from Optax, whose momentum does not grow.

    >>> import optimfx as fx
    >>> tx = fx.nadamw(1e-3, weight_decay=0.1)
    """
    return nadam(lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay=True, state_dtype=state_dtype)


@factory
def adamaxw(
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-4,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adamax with decoupled weight decay.

    Args:
        lr: learning rate :math:`\ge 0`.
        betas: decays of the average and of the maximum, each in [0, 1).
        eps: :math:`\ge 0`, added to the gradient's size, in gradient units.
        weight_decay: :math:`\ge 0`, subtracted from the parameter as ``lr weight_decay param``.

    Returns:
        A transformation with the state of a chain of :func:`~optimfx.scale_by_adamax`,
        :func:`~optimfx.add_decayed_weights` and :func:`~optimfx.scale_by_lr`.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, section 7.1. Loshchilov and Hutter, Decoupled
        Weight Decay Regularization, 2019.

    >>> import optimfx as fx
    >>> tx = fx.adamaxw(1e-3, weight_decay=0.1)
    """
    direction = scale_by_adamax(betas, eps, state_dtype=state_dtype)
    return chain(direction, add_decayed_weights(weight_decay), scale_by_lr(lr))


@factory
def acprop(
    lr: NonNegative,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-16,
    eps_root: NonNegative = 1e-16,
    weight_decay: NonNegative = 0.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""ACProp: gradients divided by how far those before strayed from their average.

    Args:
        lr: learning rate :math:`\ge 0`.
        betas: decays of the average and of the second moment, each in [0, 1).
        eps: :math:`\ge 0`, added to the root of the second moment, in gradient units.
        eps_root: :math:`\ge 0`, added to the second moment at every step.
        weight_decay: :math:`\ge 0`, subtracted from the parameter as ``lr weight_decay param``.

    Returns:
        A transformation with the state of a chain of :func:`~optimfx.scale_by_acprop`,
        :func:`~optimfx.add_decayed_weights` and :func:`~optimfx.scale_by_lr`.

    References:
        Zhuang et al., Momentum Centering and Asynchronous Update for Adaptive Gradient Methods, 2021.

    >>> import optimfx as fx
    >>> tx = fx.acprop(1e-3, weight_decay=0.1)
    """
    direction = scale_by_acprop(betas, eps, eps_root, state_dtype=state_dtype)
    return chain(direction, add_decayed_weights(weight_decay), scale_by_lr(lr))


@factory
def simplified_ademamix(
    lr: NonNegative,
    betas: Betas = (0.99, 0.95),
    alpha: NonNegative = 0.0,
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Simplified AdEMAMix: one sum of the gradients, and the gradient itself, in place of two averages.

    Args:
        lr: learning rate :math:`\ge 0`; :math:`1 / (1 - \beta_1)` times as much as Adam's is as large a step.
        betas: decays of the sum and of the second moment, each in [0, 1).
        alpha: :math:`\ge 0`, weight of the gradient beside the sum.
        eps: :math:`\ge 0`, added to the root of the second moment, in gradient units.
        eps_root: :math:`\ge 0`, under the root.
        weight_decay: :math:`\ge 0`, subtracted from the parameter as ``lr weight_decay param``.

    Returns:
        A transformation with the state of a chain of :func:`~optimfx.scale_by_simplified_ademamix`,
        :func:`~optimfx.add_decayed_weights` and :func:`~optimfx.scale_by_lr`.

    References:
        Morwani et al., Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD Variants, 2025.

    >>> import optimfx as fx
    >>> tx = fx.simplified_ademamix(1e-5, alpha=100.0, weight_decay=0.1)
    """
    direction = scale_by_simplified_ademamix(betas, alpha, eps, eps_root, state_dtype=state_dtype)
    return chain(direction, add_decayed_weights(weight_decay), scale_by_lr(lr))


@factory
def optimistic_adam_v2(
    lr: NonNegative,
    alpha: Real = 1.0,
    beta: Real = 1.0,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    eps_root: NonNegative = 0.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adam for min-max problems: its direction, and the last change of that.

    Args:
        lr: learning rate :math:`\ge 0`.
        alpha: weight of the direction.
        beta: weight of its change.
        betas: decays of the moments, each in [0, 1).
        eps: :math:`\ge 0`, added to the root of the second moment, in gradient units.
        eps_root: :math:`\ge 0`, under the root.

    Returns:
        A transformation with the state of a chain of :func:`~optimfx.scale_by_adam`,
        :func:`~optimfx.scale_by_optimistic_gradient` and :func:`~optimfx.scale_by_lr`.

    References:
        Daskalakis et al., Training GANs with Optimism, 2018.

    Optax's direction is Nesterov's unless ``nesterov=False``; here it never is.

    >>> import optimfx as fx
    >>> tx = fx.optimistic_adam_v2(1e-3)
    """
    return chain(
        scale_by_adam(betas, eps, eps_root=eps_root, state_dtype=state_dtype),
        scale_by_optimistic_gradient(alpha, beta, state_dtype=state_dtype),
        scale_by_lr(lr),
    )


@factory
def signum(lr: NonNegative = 1e-3, beta: Decay = 0.9, *, state_dtype: DType | None = None) -> GradientTransformation:
    r"""SGD by the sign of an average of the gradients: :func:`~optimfx.signsgd` with ``momentum=beta``.

    Args:
        lr: learning rate :math:`\ge 0`.
        beta: decay of the average, in [0, 1).
        state_dtype: dtype of the average; ``None`` for the parameters' own.

    Returns:
        A transformation with the state of :func:`~optimfx.signsgd`.

    References:
        Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, 2018.

    >>> import optimfx as fx
    >>> fx.signum(1e-3)
    signsgd(lr=0.001, momentum=0.9)
    """
    return signsgd(lr, momentum=beta, state_dtype=state_dtype)
