"""Checks of the constructors and of ``fused``, with torch's error texts."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices


def check_no_schedule(**hyper: Any) -> None:
    """Refuse functions of the step, which only the pure algorithms take."""
    for name, value in hyper.items():
        if callable(value) and not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a number or a tensor; got the schedule {value!r}. Classes take numbers: "
                f"use a scheduler of optimfx.optim.lr_scheduler, or give the schedule to the pure algorithm, and that "
                f"to TransformOptimizer."
            )


def check_flags(defaults: dict[str, Any]) -> None:
    """Refuse flags that exclude each other."""
    if defaults.get("fused"):
        if defaults.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if defaults.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def check_fused(param: Tensor) -> None:
    """Refuse what a fused step does not take, which is known only then: a model may be made on the meta device."""
    devices = _get_fused_kernels_supported_devices()
    if param.device.type not in devices or not param.is_floating_point():
        raise RuntimeError(
            "`fused=True` requires all the params to be floating point Tensors of "
            f"supported devices: {devices} but {param.dtype} and {param.device.type}"
        )
