"""Directions of Adam and of algorithms that correct its moments or have more of them."""

from __future__ import annotations

from optimfx.core import DType, GradientTransformation, Hyper, factory
from optimfx.rules.adam import adam
from optimfx.rules.adamax import adamax
from optimfx.rules.adan import adan
from optimfx.rules.ademamix import ademamix
from optimfx.rules.radam import radam
from optimfx.transforms.direction import direction_of


@factory
def scale_by_adam(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    amsgrad: bool = False,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adam`.

    .. math:: g_t \to \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    The moments are those of :func:`~optimfx.adam`, bias-corrected.

    Args:
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        amsgrad: divide by the largest second moment so far.

    Returns:
        A transformation with state :class:`~optimfx.rules.adam.AdamState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_adam()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1.0000, 1.0000])
    """
    algorithm = adam(betas=betas, eps=eps, amsgrad=amsgrad, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_adam")


@factory
def scale_by_amsgrad(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adam` with ``amsgrad=True``.

    .. math:: g_t \to \frac{\hat m_t}{\sqrt{\max_{s \le t} v_s / (1 - \beta_2^t) + \epsilon_{\text{root}}} + \epsilon}

    The moments are those of :func:`~optimfx.adam`.

    Args:
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.adam.AdamState`.

    Optax takes the maximum after the bias correction, torch and this before it.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_amsgrad()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1.0000, 1.0000])
    """
    algorithm = adam(betas=betas, eps=eps, amsgrad=True, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_amsgrad")


@factory
def scale_by_adamax(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adamax`.

    .. math:: g_t \to \frac{\hat m_t}{u_t}

    The norm :math:`u_t` is that of :func:`~optimfx.adamax`, with :math:`\epsilon` in it.

    Args:
        betas: decays of the averages of the gradient and of its greatest magnitude, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the magnitude, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.adamax.AdamaxState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_adamax()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1., 1.])
    """
    algorithm = adamax(betas=betas, eps=eps, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_adamax")


@factory
def scale_by_radam(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.radam`.

    The mean :math:`\hat m_t` until the variance of Adam's step is known; then that step, times :math:`r_t`.

    Args:
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.radam.RAdamState`.

    Optax corrects the second moment before it adds ``eps``.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_radam()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([0.5000, 3.0000])
    """
    algorithm = radam(betas=betas, eps=eps, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_radam")


@factory
def scale_by_ademamix(
    betas: tuple[Hyper, Hyper, Hyper] = (0.9, 0.999, 0.9999),
    alpha: Hyper = 5.0,
    eps: Hyper = 1e-8,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.ademamix`.

    .. math:: g_t \to \frac{\hat m_t + \alpha m'_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    The slow average :math:`m'_t` is not corrected.

    Args:
        betas: decays of the fast average of the gradient, of that of its square and of the slow one, each in [0, 1).
        alpha: weight of the slow average, at least 0.
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.ademamix.AdEMAMixState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_ademamix()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1.0005, 1.0005])
    """
    algorithm = ademamix(betas=betas, alpha=alpha, eps=eps, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_ademamix")


@factory
def scale_by_adan(
    betas: tuple[Hyper, Hyper, Hyper] = (0.98, 0.92, 0.99),
    eps: Hyper = 1e-8,
    *,
    eps_root: Hyper = 1e-8,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adan`.

    .. math:: g_t \to \frac{\hat m_t + \beta_2 \hat d_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    The average :math:`d_t` is of the differences of successive gradients.

    Args:
        betas: decays of the averages of the gradient, of its differences and of the square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.adan.AdanState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_adan()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1., 1.])
    """
    algorithm = adan(betas=betas, eps=eps, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_adan")
