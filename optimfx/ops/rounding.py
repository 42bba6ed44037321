"""Rounding to a narrower dtype: to the nearest number, or up and down at random, so that it is right on average."""

from __future__ import annotations

from ctypes import c_float
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from optimfx.core import tracing
from optimfx.ops.random import LOW, mix_bits, whole_like


def rounded(x: Any, dtype: torch.dtype) -> Any:
    """``x`` as a tensor of this dtype would store it, in its own dtype; the derivative is 1."""
    if has_torch_function_unary(x):
        return handle_torch_function(rounded, (x,), x, dtype)
    if x.dtype == dtype:
        return x
    # Inductor removes a round-trip cast, so go through the bits.
    bits = x.to(dtype).view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    return _differentiable(x, (bits & -1).view(dtype).to(x.dtype))


def multiply_in(dtype: torch.dtype | None, x: Any, y: Any) -> Any:
    """Multiply two numbers as a tensor of this dtype is multiplied by a number: each is rounded, and the product too.

    Tensors, and numbers without a dtype, are multiplied as they are.
    """
    if dtype is None or isinstance(x, Tensor) or isinstance(y, Tensor):
        return x * y
    if dtype is torch.float64:
        return x * y
    if dtype is torch.float32:  # without torch, whose calls take half of the time of NAdam's scalars
        return c_float(c_float(x).value * c_float(y).value).value
    return (torch.tensor(x, dtype=dtype, device="cpu") * y).item()


def rounded_stochastically(x: Any, dtype: torch.dtype, seed: Any, step: Any) -> Any:
    """``x`` as one of its two neighbours in bfloat16, the nearer the likelier, so that the mean over seeds is ``x``.

    Which, a hash decides of the seed, the step, the element's place in its tensor and its value: the same on every
    device, and without a generator whose state must be kept. In any other dtype ``x`` is rounded to the nearest.

    Args:
        x: numbers, in float32 or float64; the latter are rounded to float32 first.
        dtype: what they will be stored in.
        seed: an integer in [0, 2**24).
        step: the number of the step, at most 2**24 for distinct ones.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(rounded_stochastically, (x,), x, dtype, seed, step)
    if dtype != torch.bfloat16:
        return rounded(x, dtype)
    bits = x.to(torch.float32).view(torch.int32)
    place = torch.arange(x.numel(), device=x.device).view(x.shape)
    noise = mix_bits(mix_bits(mix_bits(whole_like(seed, x)) ^ whole_like(step, x)) ^ place)
    noise = mix_bits(noise ^ (bits.long() & LOW)) & 0xFFFF
    # Uniform noise added to the dropped bits carries into the kept ones with probability proportional to their value.
    up = ((bits.long() + noise) & ~0xFFFF).int().view(torch.float32)
    return _differentiable(x, torch.where(x.isfinite(), up.to(x.dtype), x))


def _differentiable(x: Tensor, image: Tensor) -> Tensor:
    """Give the image, which bits were made into, the derivative of a cast."""
    if not (tracing.active() or tracing.requires_autograd(x)):
        return image
    return torch.where(image.isfinite(), image + (x - x.detach()), image)
