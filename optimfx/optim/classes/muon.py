"""Muon as torch's class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optimfx.optim.adapter.settings import Settings
from optimfx.optim.adapter.validation import check, check_lr
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.muon import muon


class Muon(Optimizer):
    """Muon: momentum, made orthogonal. For matrices alone.

    Arguments: see :func:`optimfx.muon`.
    """

    factory = staticmethod(muon)
    counts = False
    complex_error = "Muon does not support complex parameters"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        check_lr(lr, "Learning rate should be >= 0 but is: {}")
        check(momentum >= 0.0, "momentum should be >= 0 but is: {}", momentum)
        check(weight_decay >= 0.0, "weight decay should be >= 0 but is: {}", weight_decay)
        known = adjust_lr_fn in (None, "original", "match_rms_adamw")
        check(known, "Adjust learning rate function {} is not supported", adjust_lr_fn)
        numbers = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)
        newton_schulz = dict(ns_coefficients=ns_coefficients, eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        super().__init__(params, {**numbers, **newton_schulz})
        for group in self.param_groups:
            for p in group["params"]:
                text = "Muon only supports 2D parameters whereas we found a parameter with size: {}"
                check(p.ndim == 2, text, p.size())

    def _check(self, settings: Settings, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        super()._check(settings, params, grads)
        if any(p.ndim != 2 for p in params):
            raise ValueError("Param gradient must be a 2D matrix")
