"""Schedulers that come round: cycles and warm restarts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer

from optimfx import schedules
from optimfx.optim.lr_scheduler.base import LRScheduler, Rate, check_optimizer, per_group, write
from optimfx.optim.lr_scheduler.functions import function_state


class _WithMomentum(LRScheduler):
    """Writes momentum, or the first beta, along with the rate."""

    use_beta1: bool
    cycle_momentum: bool

    def _momenta(self) -> list[Any]:
        """Those of all groups at ``self.last_epoch``."""
        raise NotImplementedError

    def _cycle_momentum(self) -> None:
        if self.cycle_momentum:
            for group, momentum in zip(self.optimizer.param_groups, self._momenta(), strict=True):
                self._write_momentum(group, momentum)

    def _restore(self) -> None:
        super()._restore()
        self._cycle_momentum()

    def _begin_momentum(self, last_epoch: int, base_momentum: Any, max_momentum: Any) -> tuple[list[Any], list[Any]]:
        """Begin the bounds of the momentum for each group, left in the groups too unless it resumes."""
        defaults = self.optimizer.defaults
        if "momentum" not in defaults and "betas" not in defaults:
            raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
        self.use_beta1 = "betas" in defaults
        base = per_group("base_momentum", self.optimizer, base_momentum)
        top = per_group("max_momentum", self.optimizer, max_momentum)
        if last_epoch == -1:
            for group, low, high in zip(self.optimizer.param_groups, base, top):
                self._write_momentum(group, high)
                group["max_momentum"] = high
                group["base_momentum"] = low
        return base, top

    def _write_momentum(self, group: dict[str, Any], momentum: Any) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


class CyclicLR(_WithMomentum):
    r"""Up from ``base_lr`` to ``max_lr`` and down in straight lines, again and again; momentum the other way round.

    .. math:: \gamma_t = a + (b - a) h_t s, \qquad \mu_t = \mu_{\max} - (\mu_{\max} - \mu_{\min}) h_t s

    with the height :math:`h_t` in [0, 1] along the cycle and its scale :math:`s`.

    Args:
        optimizer: whose rates are scheduled; it must have momentum or betas, unless ``cycle_momentum`` is off.
        base_lr: :math:`a`, or a list with one for each group.
        max_lr: :math:`b`, likewise.
        step_size_up: steps up.
        step_size_down: steps down; as many as up when ``None``, at once when 0.
        mode: the scale: ``"triangular"`` 1, ``"triangular2"`` half of the last cycle's, ``"exp_range"`` ``gamma^t``.
        gamma: of ``"exp_range"``.
        scale_fn: the scale, instead of a mode.
        scale_mode: what ``scale_fn`` is a function of: the ``"cycle"``, which counts from 1, or ``"iterations"``.
        cycle_momentum: whether momentum cycles too.
        base_momentum: :math:`\mu_{\min}`, or a list.
        max_momentum: :math:`\mu_{\max}`, or a list.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: an unknown mode, a list of another length than the groups, or no momentum to cycle.
        TypeError: not an optimizer.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, 2017.

    Pure: :func:`optimfx.schedules.cyclic`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import CyclicLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    >>> scheduler, lrs = CyclicLR(optimizer, base_lr=0.0, max_lr=1.0, step_size_up=2), []
    >>> for _ in range(5):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        base_lrs = per_group("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs):
                write(group, "lr", lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)

        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size

        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self.scale_mode: str = scale_mode
        self._scale_fn_custom = scale_fn
        self._init_scale_fn()

        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.base_momentums, self.max_momentums = self._begin_momentum(last_epoch, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """Scale the height, at a cycle or at a step."""
        function = self._scale_fn_custom or self._scale_fn_ref
        return function(x)

    def _init_scale_fn(self) -> None:
        if self._scale_fn_custom is None:
            # torch's name, which subclasses read.
            self._scale_fn_ref, self.scale_mode = schedules.height_scale(self.mode, self.gamma)

    def _cycle(self, start: Any, peak: Any) -> Any:
        up = self.total_size * self.step_ratio
        schedule = schedules.cyclic(
            start, peak, up, self.total_size - up, scale_fn=self.scale_fn, scale_mode=self.scale_mode
        )
        return schedule(self.last_epoch)

    def _next_lr(self) -> list[Rate]:
        self._cycle_momentum()
        return [self._cycle(low, high) for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def _momenta(self) -> list[Any]:
        return [self._cycle(high, low) for low, high in zip(self.base_momentums, self.max_momentums, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler, and of a ``scale_fn`` that is an object; a plain function is not saved."""
        state = super().state_dict() | {"_scale_fn_custom": function_state(self._scale_fn_custom)}
        state.pop("_scale_fn_ref", None)
        return state

    def _load(self, state_dict: dict[str, Any]) -> None:
        super()._load({key: value for key, value in state_dict.items() if key != "_scale_fn_custom"})
        if state_dict["_scale_fn_custom"] is not None:
            self._scale_fn_custom.__dict__.update(state_dict["_scale_fn_custom"])
        self._init_scale_fn()


class OneCycleLR(_WithMomentum):
    r"""Up from ``max_lr / div_factor`` to ``max_lr`` and far down, in one cycle; momentum the other way round.

    Args:
        optimizer: whose rates are scheduled; it must have momentum or betas, unless ``cycle_momentum`` is off.
        max_lr: the peak, or a list with one for each group.
        total_steps: length of the cycle; ``epochs * steps_per_epoch`` when ``None``.
        epochs: of training.
        steps_per_epoch: in each.
        pct_start: the part of the cycle that goes up, a float in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: whether momentum cycles too, from ``max_momentum`` down to ``base_momentum`` and back.
        base_momentum: the lowest momentum, or a list.
        max_momentum: the highest momentum, or a list.
        div_factor: the first rate is ``max_lr / div_factor``.
        final_div_factor: the last rate is the first divided by this.
        three_phase: come down to the first rate as fast as it went up, and only then to the last.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: no length, or one that is not a positive integer; ``pct_start`` or ``anneal_strategy`` is
            not as above; a list of another length than the groups; no momentum to cycle; at ``step``, the cycle is
            over.
        TypeError: not an optimizer.

    References:
        Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018.

    Pure: :func:`optimfx.schedules.one_cycle`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import OneCycleLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    >>> scheduler, lrs = OneCycleLR(optimizer, max_lr=1.0, total_steps=5, pct_start=0.6), []
    >>> for _ in range(5):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> [round(lr, 3) for lr in lrs]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in schedules.ANNEALS:
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)

        max_lrs = per_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, peak in zip(optimizer.param_groups, max_lrs):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._begin_momentum(last_epoch, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def _next_lr(self) -> list[Rate]:
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"Tried to step {self.last_epoch} times. The specified number of total steps is {self.total_steps}"
            )
        self._cycle_momentum()
        return [self._anneal(group, "lr") for group in self.optimizer.param_groups]

    def _momenta(self) -> list[Any]:
        return [self._anneal(group, "momentum") for group in self.optimizer.param_groups]

    def _anneal(self, group: dict[str, Any], name: str) -> Any:
        phases = self._schedule_phases
        knots = [(0.0, group[phases[0][f"start_{name}"]])]
        knots += [(phase["end_step"], group[phase[f"end_{name}"]]) for phase in phases]
        return schedules.anneal_through(knots, self._anneal_func_type)(self.last_epoch)


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return _positive("total_steps", total_steps)
    if epochs is None or steps_per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    return _positive("epochs", epochs) * _positive("steps_per_epoch", steps_per_epoch)


def _positive(name: str, count: int) -> int:
    if count <= 0 or not isinstance(count, int):
        raise ValueError(f"Expected positive integer {name}, but got {count}")
    return count


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    """Return what each part of the cycle goes between, by the names under which the groups keep the values."""
    low, peak, end = ("initial_lr", "max_momentum"), ("max_lr", "base_momentum"), ("min_lr", "max_momentum")
    ends = schedules.one_cycle_ends(total_steps, pct_start, three_phase)
    phases, start = [], low
    for end_step, stop in zip(ends, [peak, low, end] if three_phase else [peak, end]):
        names = {"start_lr": start[0], "end_lr": stop[0], "start_momentum": start[1], "end_momentum": stop[1]}
        phases.append({"end_step": end_step, **names})
        start = stop
    return phases


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Half cosines from the base down to ``eta_min``, one after another.

    .. math:: \gamma_t = e + (\gamma_0 - e) (1 + \cos(\pi T_{cur} / T_i)) / 2

    where :math:`T_{cur}` steps have passed since the last restart and :math:`T_i` lie between it and the next.

    Args:
        optimizer: whose rates are scheduled.
        T_0: :math:`T_i` of the first half cosine, a positive integer.
        T_mult: how many times as long as the last one each is, an integer of at least 1.
        eta_min: :math:`e`, the lowest rate.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: an argument is not as above; at ``step``, a negative epoch.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    Pure: :func:`optimfx.schedules.cosine_annealing_warm_restarts`. ``step(epoch)`` finds every restart, where torch
    misses those at which a logarithm rounds down, as with ``T_mult=3`` at step 121.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import CosineAnnealingWarmRestarts
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = CosineAnnealingWarmRestarts(optimizer, T_0=2), []
    >>> for _ in range(5):
    ...     lrs += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> lrs
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        _positive("T_0", T_0)
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Go to the next step, or to one that is given, which may lie between two: ``epoch + batch / batches``."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        else:
            self.T_cur, self.T_i = schedules.restart(epoch, self.T_0, self.T_mult)
        self._update_lr(math.floor(epoch))

    def _next_lr(self) -> list[Rate]:
        return [schedules.cosine_annealing(lr, self.T_i, self.eta_min)(self.T_cur) for lr in self.base_lrs]
