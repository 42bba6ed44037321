"""Hyperparameters as pure functions of the step.

A schedule takes the number of updates taken so far (0 at the first), as a Python number or a 0-d tensor, and returns a
number or a 0-d tensor. None reads a tensor back or branches on one, so that schedules run inside ``vmap``, ``grad`` and
``torch.compile``. Each is the closed form of the ``torch.optim.lr_scheduler`` class that its docstring names; the first
argument is the value that torch reads from the optimizer, of any hyperparameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optimfx import ops
from optimfx.core import Hyper, Scalar, Schedule
from optimfx.core.closed_form import closed_form

__all__ = [
    "constant", "cosine_annealing", "cosine_annealing_warm_restarts", "cyclic", "exponential", "join",
    "lambda_schedule", "linear", "multi_step", "multiplicative", "one_cycle", "polynomial", "step_decay",
    "warmup_cosine", "warmup_stable_decay",
]  # fmt: skip


def _positive(or_zero: bool = False, **counts: Any) -> None:
    for name, count in counts.items():
        if not (count > 0 or (or_zero and count == 0)):
            raise ValueError(f"{name} must {'not be negative' if or_zero else 'be positive'}; got {count!r}.")


@closed_form
def constant(lr: Scalar, factor: float = 1 / 3, total_iters: float = 5) -> Schedule:
    """``factor lr`` for the first ``total_iters`` steps, then ``lr`` (ConstantLR).

    >>> import optimfx as fx
    >>> schedule = fx.schedules.constant(0.1, factor=0.5, total_iters=2)
    >>> [schedule(step) for step in range(4)]
    [0.05, 0.05, 0.1, 0.1]
    """
    return lambda step: lr * ops.where(step < total_iters, factor, 1)


@closed_form
def linear(lr: Scalar, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: float = 5) -> Schedule:
    """From ``start_factor lr`` in a straight line to ``end_factor lr``, which stays (LinearLR).

    Args:
        lr: the value that the factors are of.
        start_factor: at step 0.
        end_factor: from step ``total_iters`` on.
        total_iters: steps between.

    Raises:
        ValueError: ``total_iters`` is not positive.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.linear(1.0, start_factor=0.5, total_iters=2)
    >>> [schedule(step) for step in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """
    _positive(total_iters=total_iters)
    return lambda step: lr * (start_factor + (end_factor - start_factor) * ops.minimum(step, total_iters) / total_iters)


@closed_form
def step_decay(lr: Scalar, step_size: int, gamma: float = 0.1) -> Schedule:
    """``lr``, times ``gamma`` after every ``step_size`` steps (StepLR).

    Raises:
        ValueError: ``step_size`` is not positive.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.step_decay(1.0, step_size=2, gamma=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    _positive(step_size=step_size)
    return lambda step: lr * gamma ** (step // step_size)


@closed_form
def multi_step(lr: Scalar, milestones: Sequence[float], gamma: float = 0.1) -> Schedule:
    """``lr``, times ``gamma`` from each of the milestones on (MultiStepLR).

    >>> import optimfx as fx
    >>> schedule = fx.schedules.multi_step(1.0, milestones=[1, 3], gamma=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    return lambda step: lr * gamma ** sum(ops.where(step >= milestone, 1, 0) for milestone in milestones)


@closed_form
def exponential(lr: Scalar, gamma: float) -> Schedule:
    """``lr gamma^step`` (ExponentialLR).

    >>> import optimfx as fx
    >>> schedule = fx.schedules.exponential(1.0, gamma=0.5)
    >>> [schedule(step) for step in range(3)]
    [1.0, 0.5, 0.25]
    """
    return lambda step: lr * gamma**step


@closed_form
def polynomial(lr: Scalar, total_iters: float = 5, power: float = 1.0) -> Schedule:
    """``lr (1 - step / total_iters)^power``, and 0 from step ``total_iters`` on (PolynomialLR).

    Raises:
        ValueError: ``total_iters`` is not positive.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.polynomial(1.0, total_iters=2, power=2)
    >>> [schedule(step) for step in range(4)]
    [1.0, 0.25, 0.0, 0.0]
    """
    _positive(total_iters=total_iters)
    return lambda step: lr * (1.0 - ops.minimum(step, total_iters) / total_iters) ** power


@closed_form
def cosine_annealing(lr: Scalar, T_max: int, eta_min: Scalar = 0.0) -> Schedule:
    """From ``lr`` along half a cosine to ``eta_min`` at step ``T_max``, and back up by ``2 T_max`` (CosineAnnealingLR).

    Raises:
        ValueError: ``T_max`` is not positive.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.cosine_annealing(1.0, T_max=4)
    >>> [round(schedule(step), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    _positive(T_max=T_max)
    return lambda step: _half_cosine(lr, eta_min, step, T_max)


@closed_form
def cosine_annealing_warm_restarts(lr: Scalar, T_0: int, T_mult: int = 1, eta_min: Scalar = 0.0) -> Schedule:
    """Half cosines from ``lr`` down to ``eta_min``, one after another (CosineAnnealingWarmRestarts).

    Args:
        lr: the value at every restart.
        T_0: length of the first half cosine.
        T_mult: how many times as long each is as the one before.
        eta_min: the value that each comes down to.

    Raises:
        ValueError: ``T_0`` is not positive, or ``T_mult`` is below 1.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.cosine_annealing_warm_restarts(1.0, T_0=2, T_mult=2)
    >>> [round(schedule(step), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    _positive(T_0=T_0)
    if T_mult < 1:
        raise ValueError(f"T_mult must be at least 1; got {T_mult!r}.")

    def schedule(step: Any) -> Any:
        since, length = restart(step, T_0, T_mult)
        return _half_cosine(lr, eta_min, since, length)

    return schedule


def restart(step: Any, T_0: int, T_mult: int) -> tuple[Any, Any]:
    """Return the steps since the last warm restart, and from it to the next."""
    if T_mult == 1:
        return step % T_0, T_0

    def begin(cycle: Any) -> Any:
        return T_0 * (T_mult**cycle - 1) / (T_mult - 1)

    cycle = ops.floor(ops.log(step / T_0 * (T_mult - 1) + 1) / math.log(T_mult))
    # The logarithm may round to the wrong side of a restart.
    cycle = cycle + ops.where(step >= begin(cycle + 1), 1, 0) - ops.where(step < begin(cycle), 1, 0)
    return step - begin(cycle), T_0 * T_mult**cycle


@closed_form
def cyclic(
    base_lr: Scalar,
    max_lr: Scalar,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: str = "cycle",
) -> Schedule:
    """Up from ``base_lr`` to ``max_lr`` in ``step_size_up`` steps, down in ``step_size_down``, and again (CyclicLR).

    Args:
        base_lr: the lower end.
        max_lr: the upper end of the first cycle.
        step_size_up: steps up.
        step_size_down: steps down; as many as up when ``None``, at once when 0.
        mode: what becomes of the height: ``"triangular"`` keeps it, ``"triangular2"`` halves it each cycle,
            ``"exp_range"`` multiplies it by ``gamma^step``.
        gamma: of ``"exp_range"``.
        scale_fn: the factor of the height, instead of a mode.
        scale_mode: what ``scale_fn`` is a function of: the ``"cycle"``, which counts from 1, or ``"iterations"``.

    Raises:
        ValueError: an unknown mode, or a length that is negative, or 0 on the way up.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, 2017.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.cyclic(0.0, 1.0, step_size_up=2, mode="triangular2")
    >>> [schedule(step) for step in range(8)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """
    if scale_fn is None:
        scale_fn, scale_mode = height_scale(mode, gamma)
    if scale_mode not in ("cycle", "iterations"):
        raise ValueError(f"scale_mode must be 'cycle' or 'iterations'; got {scale_mode!r}.")
    step_size_down = step_size_up if step_size_down is None else step_size_down
    _positive(step_size_up=step_size_up)
    _positive(or_zero=True, step_size_down=step_size_down)
    total = step_size_up + step_size_down
    ratio = step_size_up / total

    def schedule(step: Any) -> Any:
        cycle = ops.floor(1 + step / total)
        x = 1.0 + step / total - cycle
        height = x / ratio if ratio == 1 else ops.where(x <= ratio, x / ratio, (x - 1) / (ratio - 1))
        return base_lr + (max_lr - base_lr) * height * scale_fn(cycle if scale_mode == "cycle" else step)

    return schedule


def height_scale(mode: str, gamma: float) -> tuple[Callable[[Any], Any], str]:
    """Return a mode of :func:`cyclic` as ``scale_fn`` and ``scale_mode``."""
    modes: dict[str, tuple[Callable[[Any], Any], str]] = {
        "triangular": (_keep_height, "cycle"),
        "triangular2": (_halve, "cycle"),
        "exp_range": (partial(_power, gamma), "iterations"),
    }
    if mode not in modes:
        raise ValueError(f"mode must be one of {list(modes)}; got {mode!r}.")
    return modes[mode]


def _keep_height(cycle: Any) -> float:
    return 1.0


def _power(gamma: Any, step: Any) -> Any:
    return gamma**step


def _halve(cycle: Any) -> Any:
    return 1 / 2.0 ** (cycle - 1)


@closed_form
def one_cycle(
    max_lr: Scalar,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Up to ``max_lr``, then far down, in one cycle (OneCycleLR).

    Args:
        max_lr: the peak.
        total_steps: length of the cycle; afterwards the last value stays.
        pct_start: the part of the cycle that goes up, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        div_factor: the first value is ``max_lr / div_factor``.
        final_div_factor: the last value is the first divided by this.
        three_phase: come down to the first value as fast as it went up, and only then to the last.

    Raises:
        ValueError: an unknown strategy, ``pct_start`` outside [0, 1], or ``total_steps`` not positive.

    References:
        Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.one_cycle(1.0, total_steps=11, pct_start=0.5, anneal_strategy="linear")
    >>> [round(schedule(step), 3) for step in (0, 2, 4, 7, 10)]
    [0.04, 0.467, 0.893, 0.545, 0.0]
    """
    _positive(total_steps=total_steps)
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start must be in [0, 1]; got {pct_start!r}.")
    first = max_lr / div_factor
    last = first / final_div_factor
    ends = one_cycle_ends(total_steps, pct_start, three_phase)
    through = anneal_through(
        [(0.0, first), *zip(ends, [max_lr, first, last] if three_phase else [max_lr, last])], anneal_strategy
    )
    return lambda step: through(ops.minimum(step, total_steps - 1))


def one_cycle_ends(total_steps: int, pct_start: float, three_phase: bool) -> list[float]:
    """Return the steps at which the phases of :func:`one_cycle` end: up, down in three phases, and far down."""
    back = [float(2 * pct_start * total_steps) - 2] if three_phase else []
    return [float(pct_start * total_steps) - 1, *back, total_steps - 1]


def anneal_through(knots: Sequence[tuple[float, Any]], anneal_strategy: str) -> Schedule:
    """From each knot ``(step, value)`` to the next, and on beyond the last; ``"cos"`` or ``"linear"`` in between."""
    if anneal_strategy not in ANNEALS:
        raise ValueError(f"anneal_strategy must be one of {list(ANNEALS)}; got {anneal_strategy!r}.")
    anneal = ANNEALS[anneal_strategy]

    def schedule(step: Any) -> Any:
        value: Any = None
        for (begin, start), (end, stop) in reversed(list(zip(knots, knots[1:]))):
            phase = anneal(start, stop, (step - begin) / (end - begin)) if end != begin else stop
            value = phase if value is None else ops.where(step <= end, phase, value)
        return value

    return schedule


@closed_form
def lambda_schedule(lr: Scalar, lr_lambda: Callable[[Any], Any]) -> Schedule:
    """``lr lr_lambda(step)`` (LambdaLR). Inside ``vmap`` or ``torch.compile`` the function meets a tensor.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.lambda_schedule(1.0, lambda step: 1 / (1 + step))
    >>> [schedule(step) for step in range(2)]
    [1.0, 0.5]
    """
    return lambda step: lr * lr_lambda(step)


@closed_form
def multiplicative(lr: Scalar, lr_lambda: Callable[[int], float], total_steps: int) -> Schedule:
    """``lr lr_lambda(1) ... lr_lambda(step)`` (MultiplicativeLR).

    Args:
        lr: the value at step 0.
        lr_lambda: the factor at each step from 1 on, as a number.
        total_steps: how far to multiply up, once, when the schedule is made; afterwards the last value stays. A product
            over a number of steps that only a tensor knows has no closed form.

    Raises:
        ValueError: ``total_steps`` is not positive.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.multiplicative(1.0, lambda step: 0.5, total_steps=2)
    >>> [schedule(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.25]
    """
    _positive(total_steps=total_steps)
    products = [1.0]
    for step in range(1, total_steps + 1):
        products.append(products[-1] * lr_lambda(step))
    table = torch.tensor(products, dtype=torch.float64, device="cpu")

    def schedule(step: Any) -> Any:
        step = ops.minimum(step, total_steps)
        if isinstance(step, Tensor):
            return lr * table.to(step.device).index_select(0, step.long().reshape(1)).reshape(())
        return lr * products[int(step)]

    return schedule


@closed_form
def warmup_cosine(
    lr: Scalar, warmup_steps: int, total_steps: int, init_lr: Scalar = 0.0, eta_min: Scalar = 0.0
) -> Schedule:
    """In a straight line from ``init_lr`` up to ``lr``, then along half a cosine to ``eta_min``, which stays.

    Args:
        lr: the peak, at step ``warmup_steps``.
        warmup_steps: steps up; 0 begins at the peak.
        total_steps: where ``eta_min`` is reached, warm-up included.
        init_lr: the value at step 0.
        eta_min: the value from ``total_steps`` on.

    Raises:
        ValueError: not ``0 <= warmup_steps < total_steps``.

    Optax calls it ``warmup_cosine_decay_schedule``.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.warmup_cosine(1.0, warmup_steps=2, total_steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must be in [0, {total_steps}), as total_steps counts them; got {warmup_steps}.")
    decay_steps = total_steps - warmup_steps
    return join(
        [
            _ramp(init_lr, lr, warmup_steps),
            lambda step: _half_cosine(lr, eta_min, ops.minimum(step, decay_steps), decay_steps),
        ],
        [warmup_steps],
    )


@closed_form
def warmup_stable_decay(
    lr: Scalar, warmup_steps: int, stable_steps: int, decay_steps: int, init_lr: Scalar = 0.0, eta_min: Scalar = 0.0
) -> Schedule:
    """In a straight line from ``init_lr`` up to ``lr``, level, then in a straight line to ``eta_min``, which stays.

    Args:
        lr: the level.
        warmup_steps: steps up; 0 begins on the level.
        stable_steps: steps on the level.
        decay_steps: steps down.
        init_lr: the value at step 0.
        eta_min: the value at the end and after it.

    Raises:
        ValueError: a length is negative.

    References:
        Hu et al., MiniCPM: Unveiling the Potential of Small Language Models, 2024.

    >>> import optimfx as fx
    >>> schedule = fx.schedules.warmup_stable_decay(1.0, warmup_steps=2, stable_steps=2, decay_steps=2)
    >>> [schedule(step) for step in range(8)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    _positive(or_zero=True, warmup_steps=warmup_steps, stable_steps=stable_steps, decay_steps=decay_steps)
    return join([_ramp(init_lr, lr, warmup_steps), _ramp(lr, eta_min, decay_steps)], [warmup_steps + stable_steps])


@closed_form
def join(schedules: Sequence[Hyper], milestones: Sequence[int]) -> Schedule:
    """One schedule after another, each from its own step 0 (SequentialLR).

    Args:
        schedules: the parts; a number or a 0-d tensor is a value that stays.
        milestones: the step at which each part but the first begins, in rising order.

    Raises:
        ValueError: not one milestone fewer than schedules, or milestones out of order.

    >>> import optimfx as fx
    >>> warmup = fx.schedules.linear(1.0, start_factor=0.5, total_iters=2)
    >>> schedule = fx.schedules.join([warmup, fx.schedules.exponential(1.0, 0.5)], milestones=[2])
    >>> [schedule(step) for step in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """
    if len(milestones) != len(schedules) - 1:
        raise ValueError(f"{len(schedules)} schedules need {len(schedules) - 1} milestones; got {list(milestones)}.")
    if any(a >= b for a, b in zip(milestones, milestones[1:])):
        raise ValueError(f"milestones must be strictly increasing; got {list(milestones)}.")

    def schedule(step: Any) -> Any:
        value = _at(schedules[0], step)
        for later, milestone in zip(schedules[1:], milestones):
            # A part is not asked for steps before its own first.
            value = ops.where(step >= milestone, _at(later, ops.maximum(step - milestone, 0)), value)
        return value

    return schedule


def _half_cosine(start: Any, end: Any, at: Any, width: Any = 1) -> Any:
    """From ``start`` at 0 along half a cosine to ``end`` at ``width``."""
    return end + (start - end) * (1 + ops.cos(math.pi * at / width)) / 2


def _line(start: Any, end: Any, at: Any) -> Any:
    """From ``start`` at 0 in a straight line to ``end`` at 1."""
    return start + (end - start) * at


ANNEALS: dict[str, Callable[..., Any]] = {"cos": _half_cosine, "linear": _line}
"""Ways from ``start`` to ``end``, by torch's names for them."""


def _ramp(start: Any, end: Any, steps: int) -> Schedule:
    """From ``start`` in a straight line to ``end`` at step ``steps``, which stays."""
    return lambda step: _line(start, end, ops.minimum(step, steps) / steps if steps else 1)


def _at(schedule: Hyper, step: Any) -> Any:
    """Return the value of a schedule, or of what needs none."""
    return schedule(step) if callable(schedule) else schedule
