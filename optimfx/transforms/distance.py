"""Learning rates from the distance that the parameters have come: DoG and DoWG."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import (
    Array,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    Positive,
    PyTree,
    Rule,
    Scalar,
    check_hyper,
    factory,
)
from optimfx.core.validation import POSITIVE
from optimfx.execution import transformation
from optimfx.transforms.scale import scale_by_lr
from optimfx.transforms.weight_decay import add_decayed_weights

FIRST_STEPS = ("heuristic", "distance", "learning_rate")


class DoGState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    max_dist: PyTree  # shape=() per leaf: the greatest distance of all parameters from where they began
    sum_sq_norm_grads: PyTree  # shape=() per leaf: sum of the squared norms of all gradients
    init_params: PyTree  # like the parameters: where they began


class DoGScalars(NamedTuple):
    max_dist: Scalar
    sum_sq_norm_grads: Scalar
    size: Scalar


def copied(param: Array) -> tuple[Array]:
    return (param.clone(),)


def begin_dog() -> tuple[Scalar, Scalar]:
    return 0.0, 0.0


def measure_dog(param: Array, grad: Array, init_params: Array) -> tuple[Array, Array, Array]:
    moved = param - init_params
    return ops.total(moved * moved), ops.total(init_params * init_params), ops.total(grad * grad)


def dog_scalars(
    step: Scalar,
    max_dist: Scalar,
    sum_sq_norm_grads: Scalar,
    sq_dist: Scalar,
    sq_norm: Scalar,
    sq_norm_grads: Scalar,
    init_step: tuple[str, Scalar],
    eps: Scalar,
) -> DoGScalars:
    kind, first = init_step
    if kind != "learning_rate":
        least = first * (1 + ops.sqrt(sq_norm)) if kind == "heuristic" else first
        max_dist = ops.maximum(max_dist, least)
    max_dist = ops.maximum(max_dist, ops.sqrt(sq_dist))
    sum_sq_norm_grads = sum_sq_norm_grads + sq_norm_grads
    size = max_dist / ops.sqrt(sum_sq_norm_grads + eps)
    if kind == "learning_rate":
        size = ops.where(step == 1, first, size)
    return DoGScalars(max_dist, sum_sq_norm_grads, size)


def leaf(
    base: Array, param: Array, grad: Array, init_params: Array, s: DoGScalars | DoWGScalars
) -> tuple[Array, Array]:
    return ops.add(base, grad, alpha=s.size), init_params


DOG = Rule(
    leaf,
    dog_scalars,
    copied,
    DoGState,
    reads_param=lambda s: True,
    carries=("max_dist", "sum_sq_norm_grads"),
    begin=begin_dog,
    measure=measure_dog,
    totals=("sq_dist", "sq_norm", "sq_norm_grads"),
)


@factory
def scale_by_dog(
    init_step: tuple[str, Scalar] = ("heuristic", 1e-6), eps: Positive = 1e-8, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Scale updates by the distance over gradients: how far all parameters have come, by what it took.

    .. math::
        g \to g \, \frac{\max_{s \le t} \lVert \theta_{s-1} - \theta_0 \rVert}
            {\sqrt{\sum_{s \le t} \lVert g_s \rVert^2 + \epsilon}}

    Args:
        init_step: what the first step is made of, before there is a distance: ``("heuristic", r)`` for a distance of
            ``r (1 + norm of the parameters)``, ``("distance", r)`` for ``r``, and ``("learning_rate", r)`` for a step
            of ``r`` times the gradient; ``r > 0``.
        eps: :math:`\epsilon > 0`, added to the sum of squares.
        state_dtype: dtype of the copy of the parameters; ``None`` for their own.

    Returns:
        A transformation with state :class:`DoGState`: ``step``, ``max_dist`` and ``sum_sq_norm_grads`` (0-d, float64),
        and ``init_params`` (like the parameters).

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_dog(("learning_rate", 0.5)), {"w": torch.tensor([2.0])}
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init(params), params)[0]
    {'w': tensor([2.])}
    """
    if not isinstance(init_step, (tuple, list)) or len(init_step) != 2 or init_step[0] not in FIRST_STEPS:
        raise ValueError(f"init_step must be (kind, number) with a kind of {FIRST_STEPS}; got {init_step!r}.")
    check_hyper(POSITIVE, **{"init_step[1]": init_step[1]})
    return transformation("scale_by_dog", DOG, state_dtype=state_dtype, init_step=tuple(init_step), eps=eps)


class DoWGState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    estim_sq_dist: PyTree  # shape=() per leaf: the greatest squared distance of all parameters
    weighted_sq_norm_grads: PyTree  # shape=() per leaf: sum of the squared norms of all gradients, by these weights
    init_params: PyTree  # like the parameters: where they began


class DoWGScalars(NamedTuple):
    estim_sq_dist: Scalar
    weighted_sq_norm_grads: Scalar
    size: Scalar


def begin_dowg(init_estim_sq_dist: Hyper | None, eps: Hyper) -> tuple[Scalar, Scalar]:
    return ops.initial(eps if init_estim_sq_dist is None else init_estim_sq_dist), 0.0


def measure_dowg(param: Array, grad: Array, init_params: Array) -> tuple[Array, Array]:
    moved = param - init_params
    return ops.total(moved * moved), ops.total(grad * grad)


def dowg_scalars(
    step: Scalar,
    estim_sq_dist: Scalar,
    weighted_sq_norm_grads: Scalar,
    sq_dist: Scalar,
    sq_norm_grads: Scalar,
    init_estim_sq_dist: Scalar | None,
    eps: Scalar,
) -> DoWGScalars:
    estim_sq_dist = ops.maximum(estim_sq_dist, sq_dist)
    weighted = weighted_sq_norm_grads + estim_sq_dist * sq_norm_grads
    return DoWGScalars(estim_sq_dist, weighted, estim_sq_dist / (ops.sqrt(weighted) + eps))


DOWG = Rule(
    leaf,
    dowg_scalars,
    copied,
    DoWGState,
    reads_param=lambda s: True,
    carries=("estim_sq_dist", "weighted_sq_norm_grads"),
    begin=begin_dowg,
    measure=measure_dowg,
    totals=("sq_dist", "sq_norm_grads"),
)


@factory
def scale_by_dowg(
    init_estim_sq_dist: Hyper | None = None, eps: NonNegative = 1e-4, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Scale updates by the distance over weighted gradients.

    .. math::
        g \to g \, \frac{r_t}{\sqrt{\sum_{s \le t} r_s \lVert g_s \rVert^2} + \epsilon}, \qquad
            r_t = \max_{s \le t} \lVert \theta_{s-1} - \theta_0 \rVert^2

    Args:
        init_estim_sq_dist: the least :math:`r_t`, in squared parameter units; ``None`` for ``eps``.
        eps: :math:`\epsilon \ge 0`, added to the root.
        state_dtype: dtype of the copy of the parameters; ``None`` for their own.

    Returns:
        A transformation with state :class:`DoWGState`: ``step``, ``estim_sq_dist`` and ``weighted_sq_norm_grads`` (0-d,
        float64), and ``init_params`` (like the parameters).

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Khaled, Mishchenko and Jin, DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_dowg(init_estim_sq_dist=4.0, eps=0.0), {"w": torch.tensor([2.0])}
    >>> tx.update({"w": torch.tensor([4.0])}, tx.init(params), params)[0]
    {'w': tensor([2.])}
    """
    return transformation(
        "scale_by_dowg", DOWG, state_dtype=state_dtype, init_estim_sq_dist=init_estim_sq_dist, eps=eps
    )


def dog(
    lr: NonNegative = 1.0,
    init_step: tuple[str, Scalar] = ("heuristic", 1e-6),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> GradientTransformation:
    r"""SGD with distance over gradients for a learning rate: :func:`~optimfx.scale_by_dog` between decay and ``lr``.

    Average the parameters, as with :func:`~optimfx.ema_params`: the last ones are noisy.

    Args:
        lr: :math:`\ge 0`, a factor of the steps.
        init_step: what the first step is made of, as for :func:`~optimfx.scale_by_dog`.
        eps: :math:`> 0`, added to the sum of squares.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.

    Returns:
        A transformation with the states of its links.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.dog(init_step=("learning_rate", 0.5)), {"w": torch.tensor([2.0])}
    >>> fx.step(tx, {"w": torch.tensor([4.0])}, tx.init(params), params)[0]
    {'w': tensor([0.])}
    """
    decay = [] if ops.is_zero(weight_decay) else [add_decayed_weights(weight_decay)]
    return chain(*decay, scale_by_dog(init_step, eps), scale_by_lr(lr))


def dowg(
    lr: NonNegative = 1.0,
    init_estim_sq_dist: Hyper | None = None,
    eps: NonNegative = 1e-4,
    weight_decay: NonNegative = 0.0,
) -> GradientTransformation:
    r"""SGD with distance over weighted gradients: :func:`~optimfx.scale_by_dowg` between decay and ``lr``.

    Args:
        lr: :math:`\ge 0`, a factor of the steps.
        init_estim_sq_dist: the least squared distance; ``None`` for ``eps``.
        eps: :math:`\ge 0`, added to the root.
        weight_decay: L2 coefficient :math:`\ge 0`, added to the gradient.

    Returns:
        A transformation with the states of its links.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Khaled, Mishchenko and Jin, DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.dowg(init_estim_sq_dist=4.0, eps=0.0), {"w": torch.tensor([2.0])}
    >>> fx.step(tx, {"w": torch.tensor([4.0])}, tx.init(params), params)[0]
    {'w': tensor([0.])}
    """
    decay = [] if ops.is_zero(weight_decay) else [add_decayed_weights(weight_decay)]
    return chain(*decay, scale_by_dowg(init_estim_sq_dist, eps), scale_by_lr(lr))
