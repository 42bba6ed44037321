"""The base of the schedulers: torch's own, and the rates of the groups."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch.optim.lr_scheduler as torch_schedulers
from torch import Tensor
from torch.optim import Optimizer

from optimfx.core import Schedule

Rate: TypeAlias = float | Tensor
"""A hyperparameter in a group of an optimizer."""


class LRScheduler(torch_schedulers.LRScheduler):
    """The base class of the schedulers: torch's, so that whatever asks for torch's schedulers takes these.

    A subclass defines ``get_lr()``: the rates of all groups at ``self.last_epoch``, as new numbers or tensors. Counting
    steps, warning of a wrong order of calls, writing the rates and saving the state are torch's.

    Args:
        optimizer: any ``torch.optim.Optimizer``.
        last_epoch: the last step taken, to resume from it; -1 starts fresh, and takes step 0.

    Raises:
        TypeError: not an optimizer.
        KeyError: a group has no ``lr``; or on resuming, no ``initial_lr``.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import LRScheduler
    >>> class Halving(LRScheduler):
    ...     def get_lr(self):
    ...         return [lr / 2**self.last_epoch for lr in self.base_lrs]
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler = Halving(optimizer)
    >>> optimizer.step()
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        for i, group in enumerate(getattr(optimizer, "param_groups", ())):
            if "lr" not in group:
                raise KeyError(
                    f"param_groups[{i}] has no 'lr' that a scheduler could set. If the optimizer is made of a "
                    f"transformation, inject it, as in inject_hyperparams(adam)(lr=0.1)."
                )
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Rate]:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=2,
            )
        return self._next_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Where the groups have the rates that this scheduler wrote last, as when it has just been made, they get those
        of the checkpoint; where the optimizer has loaded its own since, it is left alone. torch's schedulers never
        write rates here, so one that is made after the optimizer has loaded begins with the rate of step 0.
        """
        wrote_last = hasattr(self, "_last_lr") and _equal(self._last_lr, values(self.optimizer, "lr"))
        self._load(state_dict)
        if wrote_last:
            self._restore()

    def _load(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)

    def _restore(self) -> None:
        """Write what a step to ``last_epoch`` left in the groups."""
        for group, rate in zip(self.optimizer.param_groups, self._last_lr):
            write(group, "lr", rate)

    def _next_lr(self) -> list[Rate]:
        raise NotImplementedError


class Chainable(LRScheduler):
    r"""A scheduler that changes the rate it finds: :math:`\gamma_t = e + (\gamma_{t-1} - e) m_t / m_{t-1}`.

    Without outside changes this equals the closed form :math:`e + (\gamma_0 - e) m_t` of the schedule; where another
    scheduler or the user has changed the rate too, both changes last.
    """

    _end: float = 0.0

    def _schedule(self, lr: Rate) -> Schedule:
        """Make the closed form, from its base."""
        raise NotImplementedError

    def _multiplier(self) -> Schedule:
        """Make the schedule of a base that is 1 above the end, as a height above the end."""
        return self._schedule(1.0)

    def _get_closed_form_lr(self) -> list[Rate]:
        return [self._schedule(lr)(self.last_epoch) for lr in self.base_lrs]

    def _next_lr(self) -> list[Rate]:
        factor = self._factor()
        return [rescale(group["lr"], self._end, factor) for group in self.optimizer.param_groups]

    def _factor(self) -> Rate:
        """Return the factor of the height above the end, at the initial step or a later one."""
        return 1.0 if self._is_initial else self._change()

    def _change(self) -> Rate:
        multiplier = self._multiplier()
        before, now = multiplier(self.last_epoch - 1), multiplier(self.last_epoch)
        return 1.0 if now == before else now / before


def copy_if_tensor(value: Any) -> Any:
    """Copy a tensor; return anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def rescale(rate: Rate, end: Rate, factor: Rate) -> Rate:
    """Scale a rate's height above an end by a factor; by 1, not even by a rounding."""
    return copy_if_tensor(rate) if factor == 1 else factor * (rate - end) + end


def _equal(rates: Sequence[Rate], others: Sequence[Rate]) -> bool:
    return list(map(float, rates)) == list(map(float, others))


def values(optimizer: Optimizer, key: str) -> list[Any]:
    """Return a hyperparameter of all groups, not aliased."""
    return [copy_if_tensor(group[key]) for group in optimizer.param_groups]


def write(group: dict[str, Any], key: str, value: Rate) -> None:
    """Set a hyperparameter: a tensor in place, so that a captured graph sees it."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value.reshape(()) if isinstance(value, Tensor) else value)
    else:
        group[key] = value


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """List an argument that is given for all groups or as a list.

    Raises:
        ValueError: a list of another length.
    """
    size = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        value = [value] * size
    if len(value) != size:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {size}."
        )
    return [copy_if_tensor(v) for v in value]


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is not an optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
