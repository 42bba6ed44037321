"""Schedulers with a closed form, which they follow by changing the rate that they find."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from torch.optim import Optimizer

from optimfx import schedules
from optimfx.core import Schedule
from optimfx.optim.lr_scheduler.base import Chainable, Rate, values


class StepLR(Chainable):
    r"""Decay every ``step_size`` steps: :math:`\gamma_t = \gamma_0 g^{\lfloor t / s \rfloor}`.

    Args:
        optimizer: whose rates are scheduled.
        step_size: :math:`s`, steps from one decay to the next.
        gamma: :math:`g`, the factor of each.
        last_epoch: as in :class:`LRScheduler`.

    Pure: :func:`optimfx.schedules.step_decay`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import StepLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = StepLR(optimizer, step_size=2, gamma=0.5), []
    >>> for _ in range(5):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _schedule(self, lr: Rate) -> Schedule:
        return schedules.step_decay(lr, self.step_size, self.gamma)

    def _factor(self) -> Rate:
        return 1.0 if self.last_epoch == 0 else self._change()

    def _change(self) -> Rate:
        # Exactly gamma or 1; a ratio of powers would round.
        return self._multiplier()((self.last_epoch - 1) % self.step_size + 1)


class MultiStepLR(Chainable):
    r"""Decay at the milestones: :math:`\gamma_t = \gamma_0 g^n`, where :math:`n` of them are at most :math:`t`.

    Args:
        optimizer: whose rates are scheduled.
        milestones: the steps at which to decay, in any order; one given twice decays twice.
        gamma: :math:`g`, the factor at each.
        last_epoch: as in :class:`LRScheduler`.

    Pure: :func:`optimfx.schedules.multi_step`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import MultiStepLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5), []
    >>> for _ in range(4):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _schedule(self, lr: Rate) -> Schedule:
        return self._at(lr, self.milestones.elements())

    def _factor(self) -> Rate:
        # Only the milestones of this step: exact, where a ratio of powers would round.
        due = self.milestones[self.last_epoch]
        return self._at(1.0, [self.last_epoch] * due)(self.last_epoch)

    def _at(self, lr: Rate, milestones: Iterable[int]) -> Schedule:
        # Milestones may be NumPy's numbers, whose comparisons are not bools.
        return schedules.multi_step(lr, [float(milestone) for milestone in milestones], self.gamma)


class ConstantLR(Chainable):
    r"""Multiply the rate by a factor for a while: :math:`\gamma_t = f \gamma_0` as long as :math:`t < T`.

    Args:
        optimizer: whose rates are scheduled.
        factor: :math:`f`, in [0, 1]; without a way back if it is 0.
        total_iters: :math:`T`, steps until the factor is taken back.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: ``factor`` is outside [0, 1].
        ZeroDivisionError: at step ``total_iters``, a factor of 0 cannot be taken back.

    Pure: :func:`optimfx.schedules.constant`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import ConstantLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = ConstantLR(optimizer, factor=0.5, total_iters=2), []
    >>> for _ in range(4):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [0.5, 0.5, 1.0, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if factor > 1.0 or factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _schedule(self, lr: Rate) -> Schedule:
        return schedules.constant(lr, self.factor, float(self.total_iters))

    def _factor(self) -> Rate:
        return self.factor if self.last_epoch == 0 else self._change()


class LinearLR(Chainable):
    r"""Multiply the rate by a factor in a straight line: :math:`\gamma_t = \gamma_0 (a + (b - a) \min(t, T) / T)`.

    Args:
        optimizer: whose rates are scheduled.
        start_factor: :math:`a`, in (0, 1].
        end_factor: :math:`b`, in [0, 1].
        total_iters: :math:`T`, steps from one to the other; with 0 the first factor stays.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: a factor is out of range.

    Pure: :func:`optimfx.schedules.linear`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import LinearLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = LinearLR(optimizer, start_factor=0.5, total_iters=2), []
    >>> for _ in range(4):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _schedule(self, lr: Rate) -> Schedule:
        return schedules.linear(lr, self.start_factor, self.end_factor, _length(self.total_iters))

    def _factor(self) -> Rate:
        return self.start_factor if self.last_epoch == 0 else super()._factor()


class ExponentialLR(Chainable):
    r"""Decay at every step: :math:`\gamma_t = \gamma_0 g^t`.

    Args:
        optimizer: whose rates are scheduled.
        gamma: :math:`g`, the factor of each step.
        last_epoch: as in :class:`LRScheduler`.

    Pure: :func:`optimfx.schedules.exponential`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import ExponentialLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler = ExponentialLR(optimizer, gamma=0.5)
    >>> optimizer.step()
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _schedule(self, lr: Rate) -> Schedule:
        return schedules.exponential(lr, self.gamma)

    def _change(self) -> Rate:
        # Every step has the same factor; a ratio of powers would round, and be 0 / 0 after many steps.
        return self._multiplier()(1)


class PolynomialLR(Chainable):
    r"""Decay to 0 along a power: :math:`\gamma_t = \gamma_0 (1 - \min(t, T) / T)^p`.

    Args:
        optimizer: whose rates are scheduled.
        total_iters: :math:`T`, steps to 0; with 0 the rate stays as it is.
        power: :math:`p`.
        last_epoch: as in :class:`LRScheduler`.

    Pure: :func:`optimfx.schedules.polynomial`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import PolynomialLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = PolynomialLR(optimizer, total_iters=2, power=2), []
    >>> for _ in range(4):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [1.0, 0.25, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def _schedule(self, lr: Rate) -> Schedule:
        return schedules.polynomial(lr, _length(self.total_iters), self.power)


class CosineAnnealingLR(Chainable):
    r"""Follow a cosine: :math:`\gamma_t = e + (\gamma_0 - e) (1 + \cos(\pi t / T)) / 2`, back up after :math:`T`.

    Args:
        optimizer: whose rates are scheduled.
        T_max: :math:`T`, steps from the base down to ``eta_min``.
        eta_min: :math:`e`, the lowest rate.
        last_epoch: as in :class:`LRScheduler`.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    Pure: :func:`optimfx.schedules.cosine_annealing`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import CosineAnnealingLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = CosineAnnealingLR(optimizer, T_max=2), []
    >>> for _ in range(5):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> [round(lr, 6) for lr in lrs]
    [1.0, 0.5, 0.0, 0.5, 1.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    @property
    def _end(self) -> float:  # type: ignore[override]
        return self.eta_min

    def _schedule(self, lr: Rate) -> Schedule:
        return schedules.cosine_annealing(lr, self.T_max, self.eta_min)

    def _multiplier(self) -> Schedule:
        return schedules.cosine_annealing(1.0, self.T_max)

    def _next_lr(self) -> list[Rate]:
        if self._is_initial or (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) != 0:
            return super()._next_lr()
        # No factor leads up from the minimum, so the difference is added.
        rise = self._multiplier()(self.last_epoch)
        rates = values(self.optimizer, "lr")
        return [lr + (base_lr - self.eta_min) * rise for base_lr, lr in zip(self.base_lrs, rates, strict=True)]


def _length(total_iters: int) -> float:
    """Return the length of a ramp; torch never ends one of no steps."""
    return float(total_iters) if total_iters > 0 else math.inf
