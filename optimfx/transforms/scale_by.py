"""Directions of complete algorithms, without their learning rate and sign: the rule at ``lr=-1``."""

from __future__ import annotations

from optimfx.core import NON_NEGATIVE, UNIT, DType, GradientTransformation, Hyper, check_betas, check_hyper
from optimfx.execution import transformation
from optimfx.rules.adam import ADAM
from optimfx.rules.rmsprop import RMSPROP


def scale_by_adam(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    amsgrad: bool = False,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""The direction of :func:`~optimfx.adam`.

    .. math:: g_t \to \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    The moments are those of :func:`~optimfx.adam`, bias-corrected.

    Args:
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        amsgrad: divide by the largest second moment so far.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added under the root, in squared gradient units.
        state_dtype: dtype of the state, the count apart; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`~optimfx.rules.adam.AdamState`.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.scale_by_adam(), fx.scale(-0.1))
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init(params))
    >>> updates["w"]
    tensor([-0.1000, -0.1000])
    """
    check_hyper(NON_NEGATIVE, eps=eps, eps_root=eps_root)
    check_betas(betas)
    return transformation(
        "scale_by_adam",
        ADAM,
        state_dtype=state_dtype,
        lr=-1.0,
        betas=betas,
        eps=eps,
        eps_root=eps_root,
        weight_decay=0.0,
        amsgrad=amsgrad,
        decoupled_weight_decay=False,
    )


def scale_by_rms(
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    centered: bool = False,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""The direction of :func:`~optimfx.rmsprop`.

    .. math:: g_t \to \frac{g_t}{\sqrt{v_t + \epsilon_{\text{root}}} + \epsilon}

    The moment is that of :func:`~optimfx.rmsprop`; centered, :math:`\bar g_t^2` is taken off it.

    Args:
        alpha: decay of the averages, in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        centered: divide by the standard deviation.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added under the root, in squared gradient units: Optax's
            ``eps``, unless ``eps_in_sqrt=False``.
        state_dtype: dtype of the state, the count apart; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`~optimfx.rules.rmsprop.RMSpropState`.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_rms(alpha=0.75, eps=0.0)
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([2., 2.])
    """
    check_hyper(NON_NEGATIVE, eps=eps, eps_root=eps_root)
    check_hyper(UNIT, alpha=alpha)
    return transformation(
        "scale_by_rms",
        RMSPROP,
        state_dtype=state_dtype,
        lr=-1.0,
        alpha=alpha,
        eps=eps,
        eps_root=eps_root,
        weight_decay=0.0,
        momentum=0.0,
        centered=centered,
    )
