"""Directions of algorithms whose second moment is another than Adam's."""

from __future__ import annotations

from optimfx.core import DType, GradientTransformation, Hyper, factory
from optimfx.rules.adabelief import adabelief
from optimfx.rules.adopt import adopt
from optimfx.rules.novograd import novograd
from optimfx.rules.yogi import yogi
from optimfx.transforms.direction import direction_of


@factory
def scale_by_belief(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-16,
    *,
    eps_root: Hyper = 1e-16,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adabelief`.

    .. math:: g_t \to \frac{\hat m_t}{\sqrt{\hat s_t} + \epsilon}

    The variance :math:`s_t` is of the gradient around :math:`m_t`, with :math:`\epsilon_{\text{root}}` in it.

    Args:
        betas: decays of the averages of the gradient and of its squared distance from the first, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        eps_root: :math:`\epsilon_{\text{root}} \ge 0`, added to the variance at each step, in squared gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.adabelief.AdaBeliefState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_belief()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([1.1111, 1.1111])
    """
    algorithm = adabelief(betas=betas, eps=eps, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_belief")


@factory
def scale_by_yogi(
    betas: tuple[Hyper, Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-3,
    initial_accumulator_value: Hyper = 1e-6,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.yogi`.

    .. math:: g_t \to \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    The second moment goes to the square of the gradient by steps that do not hang on their distance.

    Args:
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.
        initial_accumulator_value: both moments at first, at least 0.

    Returns:
        A transformation with state :class:`~optimfx.rules.yogi.YogiState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_yogi()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([0.9960, 0.9996])
    """
    algorithm = yogi(betas=betas, eps=eps, initial_accumulator_value=initial_accumulator_value, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_yogi")


@factory
def scale_by_adopt(
    betas: tuple[Hyper, Hyper] = (0.9, 0.9999),
    eps: Hyper = 1e-6,
    clip: bool = True,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.adopt`, which at the first step is 0.

    .. math:: g_t \to m_t, \quad m_t = \beta_1 m_{t-1} + (1 - \beta_1) \frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}

    Args:
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon > 0`, the least root, in gradient units.
        clip: limit the quotient to :math:`(t - 1)^{1/4}`.

    Returns:
        A transformation with state :class:`~optimfx.rules.adopt.ADOPTState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_adopt()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([0., 0.])
    """
    algorithm = adopt(betas=betas, eps=eps, clip=clip, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_adopt")


@factory
def scale_by_novograd(
    betas: tuple[Hyper, Hyper] = (0.9, 0.25),
    eps: Hyper = 1e-6,
    *,
    eps_root: Hyper = 0.0,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Replace updates by the direction of :func:`~optimfx.novograd`.

    .. math::
        g_t \to m_t, \quad
        m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t + \epsilon_{\text{root}}} + \epsilon}

    The second moment is one for each leaf: of the norm of its gradient.

    Args:
        betas: decays of the momentum and of the squared norm, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root, in gradient units.

    Returns:
        A transformation with state :class:`~optimfx.rules.novograd.NovoGradState`.

    >>> import torch, optimfx as fx
    >>> tx = fx.scale_by_novograd()
    >>> updates, state = tx.update({"w": torch.tensor([0.5, 3.0])}, tx.init({"w": torch.zeros(2)}))
    >>> updates["w"]
    tensor([0.1644, 0.9864])
    """
    algorithm = novograd(betas=betas, eps=eps, eps_root=eps_root, state_dtype=state_dtype)
    return direction_of(algorithm, "scale_by_novograd")
