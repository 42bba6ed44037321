"""Gradient descent and its relatives as torch's classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optimfx.optim.adapter.settings import Group
from optimfx.optim.adapter.validation import check, check_lr, check_not_negative
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.asgd import asgd
from optimfx.rules.rprop import rprop
from optimfx.rules.sgd import sgd


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's look-ahead.

    Arguments: see :func:`optimfx.sgd`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(sgd)
    counts = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        numbers = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
        flags = dict(maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)
        super().__init__(params, dict(**numbers, nesterov=nesterov, **flags))

    def _taken(self, group: Group, grads: list[Tensor]) -> list[Tensor]:
        """Dense with momentum: of a sparse gradient, torch keeps a sparse buffer, which moves what was ever there."""
        if not group["momentum"] or group["weight_decay"]:
            return grads
        return [grad.to_dense() if grad.is_sparse else grad for grad in grads]


class ASGD(Optimizer):
    """Averaged gradient descent: beside the parameters, their average.

    Arguments: see :func:`optimfx.asgd`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(asgd)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(weight_decay=weight_decay)
        numbers = dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay)
        flags = dict(foreach=foreach, maximize=maximize, differentiable=differentiable, capturable=capturable)
        super().__init__(params, {**numbers, **flags}, fused)


class Rprop(Optimizer):
    """Rprop: a step size for each element, which grows while the gradient keeps its sign. For full batches.

    Arguments: see :func:`optimfx.rprop`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(rprop)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check(0.0 < etas[0] < 1.0 < etas[1], "Invalid eta values: {}", f"{etas[0]}, {etas[1]}")
        flags = dict(foreach=foreach, maximize=maximize, differentiable=differentiable, capturable=capturable)
        super().__init__(params, dict(lr=lr, etas=etas, step_sizes=step_sizes, **flags), fused)
