"""A scheduler that follows a measured quantity."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, SupportsFloat

import torch.optim.lr_scheduler as torch_schedulers
from torch.optim import Optimizer
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING

from optimfx.optim.lr_scheduler.base import LRScheduler, check_optimizer, values, write


class ReduceLROnPlateau(LRScheduler, torch_schedulers.ReduceLROnPlateau):
    r"""Reduce the rate when a metric has not improved for a while: :math:`\gamma \leftarrow \max(f \gamma, l)`.

    Torch's class too, unlike the other schedulers: trainers ask for it by type, to know that ``step`` wants the metric.

    Args:
        optimizer: whose rates are scheduled.
        mode: whether the metric improves towards its ``"min"`` or its ``"max"``.
        factor: :math:`f`, below 1.
        patience: steps without improvement that are tolerated.
        threshold: the least improvement that counts.
        threshold_mode: whether the threshold is a part of the best value (``"rel"``) or a difference (``"abs"``).
        cooldown: steps after a reduction in which nothing is counted.
        min_lr: :math:`l`, the lowest rate, or a list with one for each group.
        eps: smaller reductions are skipped.

    Raises:
        ValueError: ``factor`` is not below 1, an unknown mode, or a list of another length than the groups.
        TypeError: not an optimizer.
        RuntimeError: at ``step``, groups were added for which ``min_lrs`` has no rate.

    >>> import torch
    >>> from optimfx.optim.lr_scheduler import ReduceLROnPlateau
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = ReduceLROnPlateau(optimizer, factor=0.5, patience=1), []
    >>> for loss in (3.0, 2.0, 2.0, 2.0, 1.0):
    ...     scheduler.step(loss)
    ...     lrs += scheduler.get_last_lr()
    >>> lrs
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    best: float
    cooldown_counter: int
    num_bad_epochs: int
    threshold: float

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        check_optimizer(optimizer)
        size = len(optimizer.param_groups)
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else min_lr
        self.min_lrs: list[Any] = list(min_lr) if isinstance(min_lr, (list, tuple)) else [min_lr] * size
        if len(self.min_lrs) != size:
            raise ValueError(f"expected {size} min_lrs, got {len(self.min_lrs)}")
        self.optimizer = optimizer
        self.factor = factor
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = values(optimizer, "lr")
        self._init_is_better(mode, threshold, threshold_mode)
        self._reset()

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take notice of a metric, and reduce the rate when it is time."""
        current = float(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch

        if self._is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = values(self.optimizer, "lr")

    @property
    def in_cooldown(self) -> bool:
        """Whether steps without improvement are not counted now."""
        return self.cooldown_counter > 0

    def _init_is_better(self, mode: str, threshold: float, threshold_mode: str) -> None:
        if mode not in {"min", "max"}:
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in {"rel", "abs"}:
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.mode_worse = math.inf if mode == "min" else -math.inf

    def _reset(self) -> None:
        """Forget all metrics."""
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    def _is_better(self, a: float, best: float) -> bool:
        margin = self.threshold if self.mode == "max" else -self.threshold
        bar = best * (1.0 + margin) if self.threshold_mode == "rel" else best + margin
        return a > bar if self.mode == "max" else a < bar

    def _reduce_lr(self, epoch: int) -> None:
        size = len(self.optimizer.param_groups)
        if len(self.min_lrs) != size:
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({size}) differs from when `ReduceLROnPlateau` was "
                    f"initialized ({len(self.min_lrs)}), usually due to a new param group being added to the "
                    f"optimizer. Please modify the `min_lrs` field to match the length of the `optimizer` param groups."
                )
            self.min_lrs = [self.default_min_lr] * size
        for group, min_lr in zip(self.optimizer.param_groups, self.min_lrs):
            old = float(group["lr"])
            new = max(old * self.factor, min_lr)
            if old - new > self.eps:
                write(group, "lr", new)
