"""Random numbers by hashing: the same on every device, and without a generator whose state must be kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
"""The lowest 32 bits."""


def normal_like(x: Tensor, seed: Any, step: Any, leaf: int = 0) -> Tensor:
    """Draw standard normal numbers, by Box and Muller, in the shape, dtype and device of ``x``; complex ones by parts.

    Args:
        x: a tensor.
        seed: an integer in [0, 2**24).
        step: the number of the step.
        leaf: the number of the tensor among those of the step.
    """
    if x.is_complex():
        parts = torch.view_as_real(x)
        return torch.view_as_complex(normal_like(parts, seed, step, leaf))
    place = torch.arange(x.numel(), device=x.device).view(x.shape)
    bits = mix_bits(mix_bits(mix_bits(mix_bits(whole_like(seed, x)) ^ whole_like(step, x)) ^ leaf) ^ place)
    # 24 bits each: numbers in (0, 1] and [0, 1) that float32 has.
    radius = ((bits >> 8) + 1).double() / 2**24
    angle = (mix_bits(bits) >> 8).double() / 2**24
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()).to(x.dtype)


def whole_like(x: Any, like: Tensor) -> Tensor:
    """Return ``x`` as an integer tensor on the device of another."""
    return torch.as_tensor(x, device=like.device).long()


def mix_bits(x: Tensor) -> Tensor:
    """Mix 32 bits so that each depends on all (Wellons, hash-prospector, 2018), in 64-bit integers."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)
