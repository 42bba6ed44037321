"""Unscales the gradients of a ``GradScaler`` in a fused step, and skips steps that overflowed."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from optimfx import ops
from optimfx.core import tracing
from optimfx.execution.step import Step


class Scaling(NamedTuple):
    """The attributes that a ``GradScaler`` sets on the optimizer that it steps."""

    unscale: Any  # 1 / scale; None for gradients that are unscaled already
    found_inf: Any  # above 0 if a gradient overflowed: a tensor, read without a synchronization, or None

    @classmethod
    def from_optimizer(cls, optimizer: Any) -> Scaling:
        """Return what the scaler has set on the optimizer, if there is one."""
        if not (hasattr(optimizer, "grad_scale") or hasattr(optimizer, "found_inf")):
            return UNSCALED
        scale, found_inf = (tracing.read_number(getattr(optimizer, name, None)) for name in ("grad_scale", "found_inf"))
        return cls(None if scale is None else 1 / scale, found_inf)

    def to_device_of(self, param: Tensor) -> Scaling:
        """Move to where a parameter is; synchronizes only if that is the host."""
        if self is UNSCALED:
            return self
        device = param.device
        waits = device.type == "cpu"
        return Scaling(*[x.to(device, non_blocking=not waits) if isinstance(x, Tensor) else x for x in self])

    @property
    def skips_step(self) -> bool:
        """Whether there is nothing to step, as far as the host knows."""
        return not isinstance(self.found_inf, Tensor) and bool(self.found_inf)

    @property
    def step_increment(self) -> Any:
        """The increment of the step count: 0 where gradients overflowed."""
        return 1 - (self.found_inf > 0).float() if isinstance(self.found_inf, Tensor) else 1

    def wrap(self, step: Step) -> Step:
        """Wrap a step for gradients that are scaled, so that it changes nothing where one overflowed."""
        found_inf = self.found_inf if isinstance(self.found_inf, Tensor) else None
        if self.unscale is None and found_inf is None:
            return step
        scalars = _fields(*step.scalars._fields)(*step.scalars, self.unscale, found_inf)
        return step.with_scalars(scalars, _guard(step.rule))


UNSCALED = Scaling(None, None)


@lru_cache(maxsize=64)
def _fields(*names: str) -> Any:
    return namedtuple("Scalars", [*names, "unscale", "found_inf"])


@lru_cache(maxsize=64)
def _guard(rule: Any) -> Any:
    """Give the rule two scalars more; torch's own kernels do not have them."""

    def leaf(base: Any, param: Any, grad: Any, *slots: Any) -> tuple[Any, ...]:
        *slots, s = slots  # type: ignore[assignment]
        new = rule.leaf(base, param, grad if s.unscale is None else grad * s.unscale, *slots, s)
        if s.found_inf is None:
            return tuple(new)
        overflowed = s.found_inf > 0
        return tuple([None if x is None else ops.where(overflowed, old, x) for old, x in zip((param, *slots), new)])

    return replace(rule, leaf=leaf, aten=None)
