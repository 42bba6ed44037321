"""Optimizers that need no schedule: the gradient is taken between a fast sequence and its average."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from optimfx import ops, schedules
from optimfx.combinators.chain import chain
from optimfx.core import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    UNIT,
    Array,
    DType,
    GradientTransformation,
    Hyper,
    NonNegative,
    Params,
    PyTree,
    Rule,
    Scalar,
    State,
    check_count,
    check_hyper,
    check_transformation,
    check_tuple,
    factory,
    tree,
)
from optimfx.execution import transformation
from optimfx.rules.sgd import sgd
from optimfx.transforms.scale import scale_by_lr, scale_by_schedule
from optimfx.transforms.scale_by_rms import scale_by_rms
from optimfx.transforms.weight_decay import add_decayed_weights


class ScheduleFreeState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    beta: PyTree  # shape=() per leaf: weight of the average where the gradient is taken
    weight_sum: PyTree  # shape=() per leaf: sum of the weights of all steps
    max_lr: PyTree  # shape=() per leaf: the largest learning rate so far
    z: PyTree  # like the parameters: the fast sequence


class Scalars(NamedTuple):
    beta: Scalar
    weight_sum: Scalar
    max_lr: Scalar
    weight: Scalar  # of this step in the average


def begin(beta: Hyper) -> tuple[Scalar, Scalar, Scalar]:
    return ops.initial(beta), 0.0, 0.0


def init(param: Array) -> tuple[Array]:
    return (param.clone(),)


def scalars(
    step: Scalar, beta: Scalar, weight_sum: Scalar, max_lr: Scalar, lr: Scalar, weight_lr_power: Scalar
) -> Scalars:
    max_lr = ops.maximum(max_lr, lr)
    weight = max_lr**weight_lr_power
    weight_sum = weight_sum + weight
    nothing_yet = weight_sum == 0
    return Scalars(beta, weight_sum, max_lr, weight / ops.where(nothing_yet, 1, weight_sum))


def leaf(base: Array, param: Array, update: Array, z: Array, s: Scalars) -> tuple[Array, Array]:
    average = (param - z * (1 - s.beta)) / s.beta
    z = z + update
    average = ops.lerp(average, z, s.weight)
    between = ops.lerp(z, average, s.beta)
    return (between - param if base is None else between), z


SCHEDULE_FREE = Rule(
    leaf,
    scalars,
    init,
    ScheduleFreeState,
    reads_param=lambda s: True,
    carries=("beta", "weight_sum", "max_lr"),
    begin=begin,
)


@factory
def schedule_free(
    base_optimizer: GradientTransformation,
    lr: NonNegative,
    beta: Scalar = 0.9,
    weight_lr_power: NonNegative = 2.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Turn an optimizer into one that needs no learning rate schedule, by averaging in place of momentum.

    .. math::
        z_{t+1} &= z_t + u_t(y_t), \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad
            c_t = \frac{w_t}{\sum_{s \le t} w_s}, \quad w_t = (\max_{s \le t} \gamma_s)^p \\
        y_{t+1} &= (1 - \beta) z_{t+1} + \beta x_{t+1}

    The parameters are :math:`y`, at which the gradient is taken. The model is evaluated at :math:`x`, which
    :func:`schedule_free_eval_params` computes from the state and the parameters.

    Args:
        base_optimizer: makes the updates :math:`u`; it should have no momentum.
        lr: :math:`\gamma`, the learning rate of the base optimizer: it only weighs the steps, and may warm up.
        beta: :math:`\beta` in (0, 1), the weight of the average.
        weight_lr_power: :math:`p \ge 0`.
        state_dtype: dtype of ``z``; ``None`` for the parameters' own.

    Returns:
        A transformation with state ``(base state, ScheduleFreeState)``.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Defazio et al., The Road Less Scheduled, 2024.

    Optax calls ``beta`` ``b1``, and with a schedule weighs a step by the rate of the next one.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.schedule_free(fx.sgd(0.5), lr=0.5), {"w": torch.tensor([4.0])}
    >>> state = tx.init(params)
    >>> for _ in range(20):
    ...     params, state = fx.step(tx, params, state, params)  # the gradient of w^2 / 2 is w
    >>> fx.schedule_free_eval_params(state, params)["w"].abs() < 0.5
    tensor([True])
    """
    check_transformation("base_optimizer", base_optimizer)
    check_hyper(UNIT, beta=beta)
    if ops.is_zero(beta):
        raise ValueError("beta must be above 0: the average is found again from the parameters, of which it is a part.")
    link = transformation(
        "schedule_free", SCHEDULE_FREE, state_dtype=state_dtype, lr=lr, beta=beta, weight_lr_power=weight_lr_power
    )
    return chain(base_optimizer, link)


def schedule_free_sgd(
    lr: Hyper = 1.0,
    warmup_steps: int | None = None,
    beta: Scalar = 0.9,
    weight_decay: Hyper = 0.0,
    weight_lr_power: Hyper = 2.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""SGD without a schedule: :func:`schedule_free` around :func:`~optimfx.sgd`.

    Args:
        lr: learning rate :math:`\ge 0`, after the warmup; not a schedule, if there is one.
        warmup_steps: how many steps the rate takes to rise from 0, or ``None``.
        beta: weight of the average where the gradient is taken, in (0, 1).
        weight_decay: :math:`\ge 0`, added to the gradient.
        weight_lr_power: power of the learning rate in the weight of a step, :math:`\ge 0`.
        state_dtype: dtype of the fast sequence; ``None`` for the parameters' own.

    Returns:
        A transformation with the state of :func:`schedule_free`.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Defazio et al., The Road Less Scheduled, 2024.

    >>> import optimfx as fx
    >>> tx = fx.schedule_free_sgd(lr=0.5, warmup_steps=10)
    """
    rate = _warmed_up(lr, warmup_steps)
    base = sgd(rate, weight_decay=weight_decay)
    return schedule_free(base, rate, beta, weight_lr_power, state_dtype=state_dtype)


def schedule_free_adamw(
    lr: Hyper = 0.0025,
    warmup_steps: int | None = None,
    betas: tuple[Scalar, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Hyper = 0.0,
    weight_lr_power: Hyper = 2.0,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""AdamW without a schedule: :func:`schedule_free` around AdamW, whose momentum the average replaces.

    Args:
        lr: learning rate :math:`\ge 0`, after the warmup; not a schedule, if there is one.
        warmup_steps: how many steps the rate takes to rise from 0, or ``None``.
        betas: weight of the average where the gradient is taken, in (0, 1); decay of the average of the gradient's
            square, a number in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the corrected second moment, in gradient units.
        weight_decay: :math:`\ge 0`, decoupled: of the point where the gradient is taken.
        weight_lr_power: power of the learning rate in the weight of a step, :math:`\ge 0`.
        state_dtype: dtype of the fast sequence and the second moment; ``None`` for the parameters' own.

    Returns:
        A transformation with the state of :func:`schedule_free`.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Defazio et al., The Road Less Scheduled, 2024.

    >>> import optimfx as fx
    >>> tx = fx.schedule_free_adamw(lr=3e-3, warmup_steps=100, weight_decay=0.1)
    """
    check_tuple("betas", betas, "beta1", "beta2")
    check_hyper(UNIT, betas=betas)
    check_hyper(NON_NEGATIVE, eps=eps)
    beta, beta2 = betas
    rate = _warmed_up(lr, warmup_steps)
    base = chain(
        # The second moment is corrected by the root on both sides of the quotient.
        scale_by_rms(beta2, partial(_correction_root, beta2, eps), state_dtype=state_dtype),
        scale_by_schedule(partial(_correction_root, beta2, 1.0)),
        add_decayed_weights(weight_decay),
        scale_by_lr(rate),
    )
    return schedule_free(base, rate, beta, weight_lr_power, state_dtype=state_dtype)


def schedule_free_eval_params(state: State, params: Params) -> Params:
    r"""Return the parameters at which a schedule-free model is evaluated: the average.

    .. math:: x = \frac{y - (1 - \beta) z}{\beta}

    Args:
        state: of :func:`schedule_free`, or one with such a state in it, as a chain's.
        params: :math:`y`, as the last step left them.

    Returns:
        A new tree like ``params``.

    Raises:
        ValueError: there is no such state, or it does not fit the parameters.

    Nothing is switched: training goes on from the same state and parameters.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.schedule_free_sgd(lr=0.1), {"w": torch.tensor([1.0])}
    >>> fx.schedule_free_eval_params(tx.init(params), params)
    {'w': tensor([1.])}
    """
    found = _found(state)
    if found is None:
        raise ValueError(
            "schedule_free_eval_params found no ScheduleFreeState in the state: give it the state of schedule_free, or "
            "of a chain that has it."
        )
    leaves, spec = tree.flatten(params)
    columns = [tree.flatten_as(spec, field, "state", "params") for field in (found.z, found.beta)]
    average = [
        y if y is None or z is None else ((y - z * (1 - beta)) / beta).to(y.dtype)
        for y, z, beta in zip(leaves, *columns)
    ]
    return tree.unflatten(spec, average)


def _found(state: State) -> ScheduleFreeState | None:
    """Find the first of its kind in a state."""
    if isinstance(state, ScheduleFreeState):
        return state
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (tuple, list)) else ()
    for part in parts:
        found = _found(part)
        if found is not None:
            return found
    return None


def _warmed_up(lr: Hyper, warmup_steps: int | None) -> Hyper:
    if warmup_steps is None:
        return lr
    check_count(AT_LEAST_ONE, warmup_steps=warmup_steps)
    if callable(lr):
        raise TypeError("lr must be a number where there are warmup_steps; or warm up in the schedule itself.")
    return schedules.linear(lr, 0.0, total_iters=warmup_steps)


def _correction_root(beta: float, factor: float, step: Scalar) -> Scalar:
    """Return the root of the bias correction of a second moment at the update after so many steps, times a factor."""
    root: Scalar = ops.sqrt(1 - beta ** (step + 1))
    return root * factor
