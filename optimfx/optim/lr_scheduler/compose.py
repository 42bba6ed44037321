"""Schedulers made of schedulers."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch.optim.lr_scheduler as torch_schedulers
from torch.optim import Optimizer

from optimfx.optim.lr_scheduler.base import LRScheduler, values, write


class _Composed(LRScheduler):
    """Several schedulers of one optimizer, of torch's or of these."""

    _schedulers: Sequence[torch_schedulers.LRScheduler]

    def _check(self, optimizer: Optimizer, schedulers: Sequence[Any]) -> None:
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
            if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be "
                    f"specified when calling `step`, but got one at index {i} in the given schedulers sequence."
                )
            if optimizer != scheduler.optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(scheduler).__name__} at index {i} has {scheduler.optimizer}, which is different from "
                    f"{type(optimizer).__name__}."
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler and of those that it is made of."""
        return super().state_dict() | {"_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def _load(self, state_dict: dict[str, Any]) -> None:
        super()._load({key: value for key, value in state_dict.items() if key != "_schedulers"})
        rates = values(self.optimizer, "lr")
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"]):
            scheduler.load_state_dict(state)
        for group, rate in zip(self.optimizer.param_groups, rates):  # each part has the rates of its last step
            write(group, "lr", rate)


class SequentialLR(_Composed):
    """One scheduler after another, each from its own step 0.

    Args:
        optimizer: whose rates are scheduled.
        schedulers: the parts; making them has taken their first steps, which are taken back.
        milestones: the step at which each part but the first begins, in rising order.
        last_epoch: as in :class:`LRScheduler`.

    Raises:
        ValueError: no scheduler, one of another optimizer, a :class:`ReduceLROnPlateau`, or not one milestone fewer
            than schedulers.
        TypeError: a part has no optimizer.

    Pure: :func:`optimfx.schedules.join`.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import ConstantLR, ExponentialLR, SequentialLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> parts = [ConstantLR(optimizer, factor=0.25), ExponentialLR(optimizer, gamma=0.5)]
    >>> scheduler, lrs = SequentialLR(optimizer, parts, milestones=[2]), []
    >>> for _ in range(5):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [0.25, 0.25, 1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[torch_schedulers.LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError(f"{type(self).__name__} expects at least one scheduler, but got no scheduler.")
        self._check(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        self._schedulers = schedulers
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer

        for group in optimizer.param_groups:
            write(group, "lr", group["initial_lr"])
        self.recursive_undo()
        if last_epoch < 0:
            self._at(0)._initial_step()
        else:
            self._resume()
        self._last_lr = self._at(self.last_epoch).get_last_lr()

    def _resume(self) -> None:
        """Take the parts, up to the one whose turn it is, to where they are at the last epoch."""
        begins = [0, *self._milestones]
        for scheduler, begin, end in zip(self._schedulers, begins, [*self._milestones, self.last_epoch + 1]):
            if begin <= self.last_epoch and begin < end:
                _go_to(scheduler, min(end - 1, self.last_epoch) - begin)

    def recursive_undo(self, sched: Any = None) -> None:
        """Take back the counts, not the rates, of the first steps of all parts, and of theirs."""
        scheduler = self if sched is None else sched
        if hasattr(scheduler, "_schedulers"):
            for part in scheduler._schedulers:
                self.recursive_undo(part)
        elif hasattr(scheduler, "last_epoch"):
            scheduler.last_epoch -= 1

    def step(self) -> None:  # type: ignore[override]
        """Step the scheduler whose turn it is."""
        self.last_epoch += 1
        scheduler = self._at(self.last_epoch)
        if self.last_epoch in self._milestones:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def _at(self, epoch: int) -> torch_schedulers.LRScheduler:
        return self._schedulers[bisect_right(self._milestones, epoch)]


def _go_to(scheduler: torch_schedulers.LRScheduler, epoch: int) -> None:
    """Take a scheduler to an epoch of its own, from wherever it is: at once, or step by step."""
    if hasattr(scheduler, "_get_closed_form_lr"):
        scheduler._update_lr(epoch)
        return
    if hasattr(scheduler, "last_epoch"):  # a chain has none
        scheduler.last_epoch = -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not stepped
        scheduler._initial_step()
        for _ in range(epoch):
            scheduler.step()


class ChainedScheduler(_Composed):
    """Several schedulers at once, each of which changes the rate that the one before it left.

    Args:
        schedulers: the parts, of the chainable kind.
        optimizer: whose rates are scheduled; that of the first part when ``None``.

    Raises:
        ValueError: no scheduler, one of another optimizer, or a :class:`ReduceLROnPlateau`.
        TypeError: a part has no optimizer.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> parts = [ConstantLR(optimizer, factor=0.25, total_iters=2), ExponentialLR(optimizer, gamma=0.5)]
    >>> scheduler, lrs = ChainedScheduler(parts), []
    >>> for _ in range(4):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [0.25, 0.125, 0.25, 0.125]
    """

    def __init__(self, schedulers: Sequence[torch_schedulers.LRScheduler], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler to be chained, but got no scheduler."
            )
        optimizer = optimizer or schedulers[0].optimizer
        self._check(optimizer, schedulers)
        self._schedulers = schedulers
        self.optimizer = optimizer
        self._last_lr = values(optimizer, "lr")

    def step(self) -> None:  # type: ignore[override]
        """Step all of the schedulers."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = values(self.optimizer, "lr")
