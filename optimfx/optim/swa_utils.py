"""torch.optim.swa_utils: averages of a model's parameters, and the learning rate that goes with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from optimfx import ops, schedules
from optimfx.core import Schedule
from optimfx.optim.lr_scheduler.base import LRScheduler, Rate, per_group, rescale
from optimfx.transforms.average import ema_weight, swa_weight

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

AvgFn: TypeAlias = Callable[[Tensor, Tensor, Tensor | int], Tensor]
"""``(averaged, current, num_averaged) -> averaged``, of one parameter."""
MultiAvgFn: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]
"""``(averaged, current, num_averaged)``, of parameters of one device and dtype; writes into the averaged ones."""


@torch.no_grad()
def _lerp(averaged: Tensor, current: Tensor, weight: float) -> Tensor:
    if not _inexact(averaged):
        averaged, current = averaged.to(torch.get_default_dtype()), current.to(torch.get_default_dtype())
    return ops.lerp(averaged, current.to(averaged.dtype), weight)  # type: ignore[no-any-return]


@torch.no_grad()
def _multi_lerp(averaged: Sequence[Tensor], current: Sequence[Tensor], weight: float) -> None:
    if _inexact(averaged[0]):
        torch._foreach_lerp_(list(averaged), [c.to(a.dtype) for a, c in zip(averaged, current)], weight)
    else:
        for a, c in zip(averaged, current):
            a.copy_(_lerp(a, c, weight))


def _ema(blend: Callable[..., Any], decay: float, averaged: Any, current: Any, num_averaged: Any) -> Any:
    return blend(averaged, current, ema_weight(decay))


def _swa(blend: Callable[..., Any], averaged: Any, current: Any, num_averaged: Tensor | int) -> Any:
    return blend(averaged, current, swa_weight(int(num_averaged) + 1))


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAvgFn:
    r"""Make an exponential moving average of parameters, in place: :math:`a \leftarrow \beta a + (1 - \beta) \theta`.

    Args:
        decay: :math:`\beta`, in [0, 1].

    Returns:
        A function for ``AveragedModel(multi_avg_fn=)``; it can be pickled, as torch's cannot.

    Raises:
        ValueError: ``decay`` is out of range.

    Pure: :func:`optimfx.ema_params`.

    >>> import torch
    >>> from optimfx.optim.swa_utils import get_ema_multi_avg_fn
    >>> averaged = [torch.tensor([0.0]), torch.tensor([1.0])]
    >>> get_ema_multi_avg_fn(0.75)(averaged, [torch.tensor([4.0]), torch.tensor([1.0])], 1)
    >>> averaged
    [tensor([1.]), tensor([1.])]
    """
    _check_decay(decay)
    return partial(_ema, _multi_lerp, decay)


def get_swa_multi_avg_fn() -> MultiAvgFn:
    r"""Make a mean of parameters, in place: :math:`a \leftarrow a + (\theta - a) / (n + 1)` after :math:`n`.

    Returns:
        A function for ``AveragedModel(multi_avg_fn=)``; it can be pickled, as torch's cannot.

    Pure: :func:`optimfx.swa_params`. The weight is a float64 number, where torch rounds it to
    float32.

    >>> import torch
    >>> from optimfx.optim.swa_utils import get_swa_multi_avg_fn
    >>> averaged = [torch.tensor([0.0])]
    >>> get_swa_multi_avg_fn()(averaged, [torch.tensor([4.0])], 1)
    >>> averaged
    [tensor([2.])]
    """
    return partial(_swa, _multi_lerp)


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    r"""Make an exponential moving average of one parameter: :math:`\beta a + (1 - \beta) \theta`.

    Args:
        decay: :math:`\beta`, in [0, 1].

    Returns:
        A function for ``AveragedModel(avg_fn=)``; it can be pickled, as torch's cannot.

    Raises:
        ValueError: ``decay`` is out of range.

    >>> import torch
    >>> from optimfx.optim.swa_utils import get_ema_avg_fn
    >>> get_ema_avg_fn(0.75)(torch.tensor([0.0]), torch.tensor([4.0]), 1)
    tensor([1.])
    """
    _check_decay(decay)
    return partial(_ema, _lerp, decay)


def get_swa_avg_fn() -> AvgFn:
    r"""Make a mean of one parameter: :math:`a + (\theta - a) / (n + 1)` after :math:`n` of them.

    Returns:
        A function for ``AveragedModel(avg_fn=)``; it can be pickled, as torch's cannot.

    >>> import torch
    >>> from optimfx.optim.swa_utils import get_swa_avg_fn
    >>> get_swa_avg_fn()(torch.tensor([0.0]), torch.tensor([4.0]), 1)
    tensor([2.])
    """
    return partial(_swa, _lerp)


class AveragedModel(Module):
    r"""A copy of a model whose parameters are an average of those that the model has had.

    The first :meth:`update_parameters` copies the parameters; each later one averages them in, as
    :math:`a \leftarrow a + (\theta - a) / (n + 1)` unless a function says otherwise.

    Args:
        model: the model; it is copied.
        device: where the copy lives; ``None`` for where the model does.
        avg_fn: ``(averaged, current, num_averaged) -> averaged``, called for each parameter.
        multi_avg_fn: the same for lists of parameters of one device and dtype, written in place.
        use_buffers: average the buffers too (integers are rounded towards 0); otherwise they are copied at each update.

    Attributes:
        module: the copy.
        n_averaged: how many updates there have been: a buffer, and so a part of ``state_dict()``, as the functions are
            not.

    Raises:
        AssertionError: both functions are given.

    References:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018. Polyak and Juditsky,
        Acceleration of stochastic approximation by averaging, 1992.

    The averaged parameters may have another dtype than the model's, which torch's own averages refuse.

    >>> import torch
    >>> from optimfx.optim.swa_utils import AveragedModel
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> averaged = AveragedModel(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     with torch.no_grad():
    ...         _ = model.weight.fill_(value)
    ...     averaged.update_parameters(model)
    >>> averaged(torch.ones(1)).item(), averaged.n_averaged
    (3.0, tensor(3))
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: int | torch.device | None = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: MultiAvgFn | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged model."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Average in the parameters that the model has now."""
        pairs = [
            (averaged.detach(), current.detach().to(averaged.device))
            for averaged, current in zip(self._averaged(self.module), self._averaged(model))
        ]
        if self.n_averaged == 0:
            for averaged, current in pairs:
                averaged.copy_(current)
        elif self.avg_fn is not None:
            for averaged, current in pairs:
                averaged.copy_(self.avg_fn(averaged, current, self.n_averaged.to(averaged.device)))
        else:
            multi_avg_fn = self.multi_avg_fn or get_swa_multi_avg_fn()
            for (device, _), group in _by_device_and_dtype(pairs).items():
                multi_avg_fn([a for a, _ in group], [c for _, c in group], self.n_averaged.to(device))

        if not self.use_buffers:
            for mine, its in zip(self.module.buffers(), model.buffers(), strict=True):
                mine.detach().copy_(its.detach())
        self.n_averaged += 1

    def _averaged(self, model: Module) -> Iterator[Tensor]:
        return itertools.chain(model.parameters(), model.buffers() if self.use_buffers else ())


@torch.no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: int | torch.device | None = None) -> None:
    """Measure the statistics of batch normalization again, in one pass over the data.

    An average of parameters has activations that none of the averaged models had.

    Args:
        loader: batches: tensors, or lists or tuples whose first element is what the model takes.
        model: the model; its mode of training and the momenta of its layers are afterwards what they were.
        device: where to put each batch first.

    >>> import torch
    >>> from optimfx.optim.swa_utils import update_bn
    >>> model = torch.nn.BatchNorm1d(1)
    >>> update_bn([torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])], model)
    >>> model.running_mean
    tensor([4.])
    """
    momenta = {module: module.momentum for module in model.modules() if isinstance(module, _BatchNorm)}
    if not momenta:
        return
    training = model.training
    model.train()
    for module in momenta:
        module.reset_running_stats()
        module.momentum = None
    try:
        for batch in loader:
            inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(inputs if device is None else inputs.to(device))
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        model.train(training)


class SWALR(LRScheduler):
    r"""Anneal the rate to a constant one: :math:`\gamma_t = s + (\gamma_{t-1} - s) r_t / r_{t-1}`.

    The part :math:`r_t` that is left of the way goes from 1 to 0 in ``anneal_epochs`` steps, from whatever rate is
    found.

    Args:
        optimizer: whose rates are scheduled.
        swa_lr: :math:`s`, or a list with one for each group.
        anneal_epochs: steps until the rate is constant, at least 0.
        anneal_strategy: the way there: half a cosine (``"cos"``) or a straight line (``"linear"``).
        last_epoch: as in :class:`~optimfx.optim.lr_scheduler.LRScheduler`.

    Raises:
        ValueError: an unknown strategy, a negative or fractional ``anneal_epochs``, or a list of another length than
            the groups.

    References:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.

    >>> import torch
    >>> from optimfx.optim.swa_utils import SWALR
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> scheduler, lrs = SWALR(optimizer, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear"), []
    >>> for _ in range(4):
    ...     lrs += scheduler.get_last_lr()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [1.0, 0.75, 0.5, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        for group, lr in zip(optimizer.param_groups, per_group("swa_lr", optimizer, swa_lr)):
            group["swa_lr"] = lr
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _next_lr(self) -> list[Rate]:
        length = max(1, self.anneal_epochs)
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        left = self._left(length)
        now, before = (left(min(max(t, 0), length)) for t in (step, step - 1))
        factor = now / before if now else 0.0
        return [rescale(group["lr"], group["swa_lr"], factor) for group in self.optimizer.param_groups]

    def _left(self, length: int) -> Schedule:
        if self._anneal_strategy == "cos":
            return schedules.cosine_annealing(1.0, length)
        return schedules.linear(1.0, start_factor=1.0, end_factor=0.0, total_iters=length)


def _inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _by_device_and_dtype(pairs: list[tuple[Tensor, Tensor]]) -> dict[Any, list[tuple[Tensor, Tensor]]]:
    groups: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for averaged, current in pairs:
        groups.setdefault((averaged.device, averaged.dtype), []).append((averaged, current))
    return groups


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")
