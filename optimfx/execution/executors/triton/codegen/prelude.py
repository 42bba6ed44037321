"""Triton functions that compute what torch's do, where Triton's own differ."""

from __future__ import annotations

PRELUDE = """
@triton.jit
def div(x, y, exact: tl.constexpr):
    if exact and x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


@triton.jit
def sqrt(x, exact: tl.constexpr):
    if exact and x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def cbrt(x):
    # Powers of 2 leave an error of a few ulp for each binary digit of the exponent; Newton's step takes it away.
    positive = tl.where(x > 0, x, tl.full([], 1.0, x.dtype))
    y = tl.exp2(tl.log2(positive) / 3)
    y = tl.where(positive < float("inf"), y - (y * y * y - positive) / (3 * y * y), y)
    return tl.where(x == 0, x, tl.where(x > 0, y, x * float("nan")))


@triton.jit
def reciprocal(x, exact: tl.constexpr):
    return div(tl.full([], 1.0, x.dtype), x, exact)


@triton.jit
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def maximum(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def lerp(start, end, weight):
    # From the nearer end, as torch does: with a weight of 1, exactly the end.
    near = weight < 0.5
    return tl.where(near, start, end) + tl.where(near, weight, weight - 1) * (end - start)


@triton.jit
def squares(x, mask):
    # In float32, the square of 2e19 overflows. Sums of the four that a thread loads at once take fewer registers.
    x = x.to(tl.float64)
    if mask is not None:
        x = tl.where(mask, x, 0.0)
    return tl.sum(tl.reshape(x * x, [x.shape[0] // 4, 4]), axis=1)


@triton.jit
def terms(x, mask):
    x = x.to(tl.float64)
    if mask is not None:
        x = tl.where(mask, x, 0.0)
    return tl.sum(tl.reshape(x, [x.shape[0] // 4, 4]), axis=1)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    return narrowed(x, dtype).to(x.dtype)


@triton.jit
def mixed(x):
    x = (x ^ (x >> 16)).to(tl.uint32) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def rounded_stochastically(x, seed, step, place):
    # Bit for bit what optimfx.rounding computes, in 32 bits where that takes 64.
    noise = mixed(mixed(seed.to(tl.uint32)) ^ step.to(tl.uint32))
    bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
    noise = mixed(mixed(noise ^ place) ^ bits) & 0xFFFF
    up = ((bits + noise) & 0xFFFF0000).to(tl.float32, bitcast=True).to(x.dtype)
    return tl.where(tl.abs(x) < float("inf"), up, x)
"""
"""Exact, division and roots round as IEEE asks and torch does; Triton's own are off by up to 2 ulp in float32, and take
AdamW in bfloat16 from 87 to 98 % of a copy's bandwidth (on an H200)."""

NARROWED = """
@triton.jit
def narrowed(x, dtype: tl.constexpr):
    if dtype == tl.float64:
        return x
    else:
        return x.to(tl.float32).to(dtype)
"""
"""Rounded to the nearest; float64 to half precision by way of float32, as in torch."""

INTERPRETED_NARROWED = """
@triton.jit
def narrowed(x, dtype: tl.constexpr):
    if dtype == tl.float64:
        return x
    elif dtype == tl.bfloat16:
        # The interpreter cuts off where the device rounds.
        single = x.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        near = (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).to(tl.float32, bitcast=True)
        return tl.where(single == single, near, single).to(tl.bfloat16)
    else:
        return x.to(tl.float32).to(dtype)
"""
