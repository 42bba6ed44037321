"""Schedulers that follow a function which the user wrote."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch.optim import Optimizer

from optimfx import schedules
from optimfx.optim.lr_scheduler.base import LRScheduler, Rate, values


class _ByFunction(LRScheduler):
    """One function of the step per group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        size = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * size
        if len(self.lr_lambdas) != size:
            raise ValueError(f"Expected {size} lr_lambdas, but got {len(self.lr_lambdas)}")
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler and of functions that are objects; plain functions are not saved."""
        return super().state_dict() | {"lr_lambdas": [function_state(function) for function in self.lr_lambdas]}

    def _load(self, state_dict: dict[str, Any]) -> None:
        super()._load({key: value for key, value in state_dict.items() if key != "lr_lambdas"})
        for function, state in zip(self.lr_lambdas, state_dict["lr_lambdas"]):
            if state is not None:
                function.__dict__.update(state)

    def _times(self, rates: list[Rate]) -> list[Rate]:
        return [
            schedules.lambda_schedule(lr, function)(self.last_epoch)
            for function, lr in zip(self.lr_lambdas, rates, strict=True)
        ]


class LambdaLR(_ByFunction):
    r"""Multiply the base by a function of the step: :math:`\gamma_t = \gamma_0 f(t)`.

    Args:
        optimizer: whose rates are scheduled.
        lr_lambda: :math:`f`, or a list with one for each group.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: a list of another length than the groups.
        TypeError: not a function.

    Pure: :func:`optimfx.schedules.lambda_schedule`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import LambdaLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    >>> optimizer.step()
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def _next_lr(self) -> list[Rate]:
        return self._times(self.base_lrs)


class MultiplicativeLR(_ByFunction):
    r"""Multiply the rate by a function of the step: :math:`\gamma_t = \gamma_{t-1} f(t)`, from step 1 on.

    Args:
        optimizer: whose rates are scheduled.
        lr_lambda: :math:`f`, or a list with one for each group.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: a list of another length than the groups.
        TypeError: not a function.

    Pure: :func:`optimfx.schedules.multiplicative`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import MultiplicativeLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler = MultiplicativeLR(optimizer, lambda step: 0.5)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    def _next_lr(self) -> list[Rate]:
        rates = values(self.optimizer, "lr")
        return rates if self._is_initial else self._times(rates)


def function_state(function: Any) -> dict[str, Any] | None:
    """Return the attributes of a callable object; ``None`` for a plain function, which is not saved."""
    return None if function is None or isinstance(function, FunctionType) else dict(function.__dict__)
