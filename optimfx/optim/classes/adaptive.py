"""Algorithms that scale by past gradients as torch's classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from optimfx.optim.adapter.validation import check, check_lr, check_not_negative
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.adadelta import adadelta
from optimfx.rules.adafactor import adafactor
from optimfx.rules.adagrad import adagrad
from optimfx.rules.rmsprop import rmsprop


class Adadelta(Optimizer):
    """Adadelta: steps in the units of past steps.

    Arguments: see :func:`optimfx.adadelta`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adadelta)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check(0.0 <= rho <= 1.0, "Invalid rho value: {}", rho)
        check_not_negative(epsilon=eps, weight_decay=weight_decay)
        flags = dict(maximize=maximize, capturable=capturable, foreach=foreach, differentiable=differentiable)
        super().__init__(params, dict(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, **flags), fused)


class Adafactor(Optimizer):
    """Adafactor: a second moment of rows and columns instead of elements.

    Arguments: see :func:`optimfx.adafactor`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adafactor)
    complex_error = "Adafactor does not support complex parameters"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        check_lr(lr, "Learning rate should be >= 0 but is: {}")
        check(beta2_decay <= 0.0, "beta2_decay should be <= 0 but is: {}", beta2_decay)
        check(eps[0] is None or eps[0] >= 0.0, "epsilon1 should be >= 0 but is: {}", eps[0])
        check(eps[1] >= 0.0, "epsilon2 should be >= 0 but is: {}", eps[1])
        check(d >= 1.0, "Clipping threshold d should be >= 1 but is: {}", d)
        check(weight_decay >= 0.0, "weight_decay should be >= 0 but is: {}", weight_decay)
        numbers = dict(lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay)
        super().__init__(params, {**numbers, "foreach": foreach, "maximize": maximize})


class Adagrad(Optimizer):
    """Adagrad: steps scaled by all squared gradients so far. Its state is there from the start.

    Arguments: see :func:`optimfx.adagrad`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adagrad)
    later: ClassVar[dict[str, Any]] = {"initial_accumulator_value": 0}
    sparse_error = "weight_decay option is not compatible with sparse gradients"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        start = initial_accumulator_value
        check_lr(lr)
        check_not_negative(lr_decay=lr_decay, weight_decay=weight_decay, initial_accumulator_value=start, epsilon=eps)
        numbers = dict(lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay, initial_accumulator_value=start)
        flags = dict(foreach=foreach, maximize=maximize, differentiable=differentiable, fused=fused)
        super().__init__(params, {**numbers, **flags})
        with torch.no_grad():
            for index, group in enumerate(self.param_groups):
                params = group["params"]
                self._begin_states(dict.fromkeys(range(len(params)), self._prepared(index, group)), params)

    def share_memory(self) -> None:
        """Move the sums of squares to shared memory, for training in several processes."""
        for state in self.state.values():
            state["sum"].share_memory_()


class RMSprop(Optimizer):
    """RMSprop: steps scaled by a running average of the squared gradient.

    Arguments: see :func:`optimfx.rmsprop`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(rmsprop)
    later: ClassVar[dict[str, Any]] = {"momentum": 0}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(epsilon=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        numbers = dict(lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=centered, weight_decay=weight_decay)
        flags = dict(capturable=capturable, foreach=foreach, maximize=maximize, differentiable=differentiable)
        super().__init__(params, {**numbers, **flags}, fused)
