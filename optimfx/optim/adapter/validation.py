"""What constructors refuse, in torch's words."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices


def check_lr(lr: Any, text: str = "Invalid learning rate: {}") -> None:
    """One element, not negative."""
    check_no_schedule(lr=lr)
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check(lr >= 0.0, text, lr)


def check_no_schedule(**hyper: Any) -> None:
    """Refuse functions of the step, which only the pure algorithms take."""
    for name, value in hyper.items():
        if callable(value) and not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a number or a tensor; got the schedule {value!r}. Here a scheduler of "
                f"optimfx.optim.lr_scheduler sets {name}; to use the schedule itself, give it to the pure algorithm "
                f"and that to TransformOptimizer."
            )


def check_not_negative(**hyper: Any) -> None:
    """Refuse negative numbers, under the names that torch calls them by."""
    for name, value in hyper.items():
        check(value >= 0.0, f"Invalid {name} value: {{}}", value)


def check(valid: Any, text: str, value: Any) -> None:
    """A condition, and what is said of the value that does not meet it."""
    if not valid:
        raise ValueError(text.format(value))


def check_betas(betas: Any) -> None:
    """Each in [0, 1)."""
    for i in range(2):
        check(0.0 <= betas[i] < 1.0, f"Invalid beta parameter at index {i}: {{}}", betas[i])


def check_flags(defaults: dict[str, Any]) -> None:
    """Flags that exclude each other."""
    if defaults.get("fused"):
        if defaults.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if defaults.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def check_fused(param: Tensor) -> None:
    """What a fused step takes, which is known only when it is taken: a model may be made on the meta device."""
    devices = _get_fused_kernels_supported_devices()
    if param.device.type not in devices or not param.is_floating_point():
        raise RuntimeError(
            "`fused=True` requires all the params to be floating point Tensors of "
            f"supported devices: {devices} but {param.dtype} and {param.device.type}"
        )
