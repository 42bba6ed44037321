"""Directions of algorithms that divide by the root of a mean or a sum of squares."""

from __future__ import annotations

from optimfx.core import DType, GradientTransformation, Hyper, factory
from optimfx.rules.adadelta import adadelta
from optimfx.rules.adagrad import adagrad
from optimfx.rules.rmsprop import rmsprop
from optimfx.transforms.direction import direction_of


@factory
def scale_by_rms(
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    centered: bool = False,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.rmsprop`.

    .. math:: g_t \to \frac{g_t}{\sqrt{v_t + \epsilon_{\text{root}}} + \epsilon}

    The moment is that of :func:`~optimfx.rmsprop`; centered, :math:`\bar g_t^2` is subtracted from it.

    Args:
        alpha: decay of the averages, in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        centered: divide by the standard deviation.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added under the root, in squared gradient units: Optax's
            ``eps``, unless ``eps_in_sqrt=False``.

    Returns:
        A transformation with state :class:`~optimfx.rules.rmsprop.RMSpropState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_rms(alpha=0.75, eps=0.0)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([2., 2.])
    """
    algorithm = rmsprop(alpha=alpha, eps=eps, centered=centered, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_rms")


@factory
def scale_by_stddev(
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.rmsprop` with ``centered=True``.

    .. math:: g_t \to \frac{g_t}{\sqrt{v_t - \bar g_t^2 + \epsilon_{\text{root}}} + \epsilon}

    The averages are those of :func:`~optimfx.rmsprop`.

    Args:
        alpha: decay of the averages, in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added under the root, in squared gradient units: Optax's
            ``eps``, unless ``eps_in_sqrt=False``.

    Returns:
        A transformation with state :class:`~optimfx.rules.rmsprop.RMSpropState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_stddev(alpha=0.5, eps=0.0)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([2., 2.])
    """
    algorithm = rmsprop(alpha=alpha, eps=eps, centered=True, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_stddev")


@factory
def scale_by_rss(
    initial_accumulator_value: Hyper = 0.0,
    eps: Hyper = 1e-10,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adagrad`.

    .. math:: g_t \to \frac{g_t}{\sqrt{\sum_{s \le t} g_s^2} + \epsilon}

    Args:
        initial_accumulator_value: the sum at first, at least 0, in squared gradient units.
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.adagrad.AdagradState`.

    Optax adds ``eps`` under the root, and begins with a sum of 0.1.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_rss()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1., 1.])
    """
    algorithm = adagrad(initial_accumulator_value=initial_accumulator_value, eps=eps, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_rss")


@factory
def scale_by_adadelta(
    rho: Hyper = 0.9,
    eps: Hyper = 1e-6,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adadelta`.

    .. math:: g_t \to \sqrt{\frac{u_{t-1} + \epsilon}{v_t + \epsilon}} \, g_t

    The averages are of the squares of the gradients and of the directions.

    Args:
        rho: decay of the averages, in [0, 1].
        eps: :math:`\epsilon \ge 0`, added to both, in squared gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.adadelta.AdadeltaState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_adadelta()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([0.0032, 0.0032])
    """
    algorithm = adadelta(rho=rho, eps=eps, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_adadelta")
