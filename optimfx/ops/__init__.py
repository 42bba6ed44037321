"""The closed vocabulary of a rule, bound to torch.

A rule's mathematics is written with Python's operators and these words, and with nothing else. That is what lets one
source run on tensors, on lists of tensors (through ``__torch_function__``), and under ``torch.func`` and
``torch.compile``; an executor with its own language binds the same words to its own operations.

Two conventions:

* A *scalar* (``alpha``, ``value``, ``weight``, ``rate``) is a Python number or a 0-d tensor. Numbers take torch's
  compound operations, which round as ``torch.optim`` does; tensors take operators, so that gradients and ``vmap`` reach
  them (a tensor passed as ``alpha=`` would be read back to the host).
* ``base`` is what an increment is added to: the parameter when a rule *steps*, ``None`` when it gives the *update*
  alone. One formula serves both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from optimfx.core.tracing import decided, number
from optimfx.ops.rounding import rounded, rounded_stochastically

__all__ = [
    "abs",
    "add",
    "addcdiv",
    "addcmul",
    "addmm",
    "cast",
    "choose",
    "clamp",
    "cos",
    "decay",
    "decay_terms",
    "decided",
    "dot",
    "epsilon",
    "floor",
    "full_like",
    "initial",
    "is_zero",
    "largest",
    "lerp",
    "log",
    "magnitude",
    "maximum",
    "mean",
    "minimum",
    "nonfinite",
    "norm",
    "rounded",
    "rounded_stochastically",
    "rows",
    "rsqrt",
    "sign",
    "size",
    "sqrt",
    "stack",
    "transpose",
    "unless_zero",
    "where",
    "whole",
    "zeros",
    "zeros_like",
]

_NUMBERS = (int, float)


def is_zero(x: Any) -> bool:
    """Whether ``x`` is the number 0: a term that is switched off. A tensor never is, whatever its value."""
    return isinstance(x, _NUMBERS) and x == 0


def unless_zero(x: Any) -> Any:
    """``x``, or ``None`` when it is the number 0, so that a rule can leave the term out."""
    return None if is_zero(x) else x


def decay_terms(lr: Any, weight_decay: Any, decoupled: bool = True) -> tuple[Any, Any]:
    """Weight decay as ``(l2, shrinkage)``: what is added to the gradient, and what is taken off the parameter.

    One is ``None``, and without decay both are: ``l2`` is ``weight_decay``, ``shrinkage`` is ``lr weight_decay``.
    """
    if is_zero(weight_decay):
        return None, None
    return (None, lr * weight_decay) if decoupled else (weight_decay, None)


def zeros_like(x: Any) -> Any:
    """A new state slot: zeros with the shape, dtype, device and layout of ``x``."""
    return torch.zeros_like(x)


def zeros(x: Any, shape: tuple[int, ...]) -> Any:
    """A new state slot of this shape: zeros with the dtype and device of ``x``, real where ``x`` is complex."""
    return (x.real if x.is_complex() else x).new_zeros(shape)


def full_like(x: Any, value: Any) -> Any:
    """A new state slot filled with a scalar, in each part of a complex number."""
    return (torch.zeros_like(x) + (value * (1 + 1j) if x.is_complex() else value)).to(x.dtype)


def initial(hyper: Any) -> Any:
    """A hyperparameter's value before the first step."""
    return hyper(0) if callable(hyper) else hyper


def add(base: Any, x: Any, alpha: Any = 1) -> Any:
    """``base + alpha x``."""
    if base is None:
        return x * alpha
    if isinstance(alpha, Tensor):
        return base + x * alpha
    return torch.add(base, x, alpha=alpha)


def addcmul(base: Any, a: Any, b: Any, value: Any = 1) -> Any:
    """``base + value a b``."""
    if base is None:
        return a * value * b
    if isinstance(value, Tensor):
        return base + a * value * b
    return torch.addcmul(base, a, b, value=value)


def addcdiv(base: Any, a: Any, b: Any, value: Any = 1) -> Any:
    """``base + value a / b``."""
    if base is None:
        return a * value / b
    if isinstance(value, Tensor):
        return base + a * value / b
    return torch.addcdiv(base, a, b, value=value)


def decay(base: Any, param: Any, rate: Any) -> Any:
    """``(1 - rate) base``, or the increment ``-rate param`` when there is no base."""
    return param * -rate if base is None else base * (1 - rate)


def lerp(start: Any, end: Any, weight: Any) -> Any:
    """``start + weight (end - start)``."""
    if isinstance(weight, Tensor):
        return start + (end - start) * weight
    return torch.lerp(start, end, weight)


def addmm(base: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    """``beta base + alpha a b`` of matrices, or of stacks of them."""
    if base.dim() != 2 or isinstance(beta, Tensor) or isinstance(alpha, Tensor):
        return base * beta + (a @ b) * alpha
    return torch.addmm(base, a, b, beta=beta, alpha=alpha)


def transpose(x: Any) -> Any:
    """A matrix, or each of a stack, with rows and columns exchanged."""
    return x.mT


def whole(x: Any) -> Any:
    """``x``; or, where it is spread over processes (a DTensor), all of it on each of them."""
    if not hasattr(x, "redistribute"):
        return x
    from torch.distributed.tensor import Replicate  # a heavy import, which whoever made ``x`` has already done

    return x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)


def norm(x: Any, dim: int | tuple[int, ...] | None = None, ord: float = 2) -> Any:
    """The norm of a leaf, as a scalar; or along the dimensions, which are kept."""
    if dim is None:
        return number(cast(torch.linalg.vector_norm(x, ord), torch.float64))
    return torch.linalg.vector_norm(x, ord, dim=dim, keepdim=True)


def magnitude(x: Any) -> Any:
    """The 2-norm of a leaf: as :func:`norm`, but always a tensor, even on the CPU, that nobody waits for."""
    return torch.linalg.vector_norm(x)


def nonfinite(x: Any) -> Any:
    """How many elements of a leaf are infinite or NaN, as a tensor that nobody waits for."""
    return (~torch.isfinite(x)).sum().to(x.dtype)


def largest(x: Any) -> Any:
    """The largest absolute value in a leaf, as a scalar; 0 if it is empty."""
    return norm(x, ord=math.inf) if x.numel() else 0.0


def dot(x: Any, y: Any) -> Any:
    """The inner product of two vectors, as a scalar."""
    return number(torch.dot(x, y).to(torch.float64))


def rows(x: Any) -> list[Any]:
    """The entries along the first dimension: vectors, or scalars."""
    return [number(row) for row in x.unbind()] if x.dim() == 1 else list(x.unbind())


def stack(rows: Sequence[Any]) -> Any:
    """Vectors, or scalars, along a new first dimension."""
    return torch.stack(
        [row if isinstance(row, Tensor) else torch.tensor(row, dtype=torch.float64, device="cpu") for row in rows]
    )


def mean(x: Any, dim: int) -> Any:
    """The mean along a dimension, which is kept."""
    return x.mean(dim, keepdim=True)


def size(x: Any) -> Any:
    """The number of elements of a leaf: an integer, or what a tracer has for one."""
    return x.numel()


def cast(x: Any, dtype: torch.dtype) -> Any:
    """``x`` in this dtype."""
    if has_torch_function_unary(x):
        return handle_torch_function(cast, (x,), x, dtype)
    return x.to(dtype)


def epsilon(x: Any) -> float:
    """The distance from 1 to the next number in the dtype of ``x``."""
    return torch.finfo(x.dtype).eps


def sqrt(x: Any) -> Any:
    """Square root."""
    if isinstance(x, (torch.SymInt, torch.SymFloat)):
        return torch.sym_sqrt(x)
    return math.sqrt(x) if isinstance(x, _NUMBERS) else torch.sqrt(x)


def rsqrt(x: Any) -> Any:
    """One over the square root."""
    return torch.rsqrt(x)


def cos(x: Any) -> Any:
    """Cosine of an angle in radians."""
    return math.cos(x) if isinstance(x, _NUMBERS) else torch.cos(x)


def log(x: Any) -> Any:
    """Natural logarithm."""
    return math.log(x) if isinstance(x, _NUMBERS) else torch.log(x)


def floor(x: Any) -> Any:
    """The largest integer not above ``x``."""
    return math.floor(x) if isinstance(x, _NUMBERS) else torch.floor(x)


def abs(x: Any) -> Any:
    """Absolute value."""
    return math.fabs(x) if isinstance(x, _NUMBERS) else torch.abs(x)


def sign(x: Any) -> Any:
    """-1, 0 or 1."""
    return torch.sign(x)


def clamp(x: Any, min: Any, max: Any) -> Any:
    """``x``, limited to ``[min, max]``."""
    return minimum(maximum(x, min), max)


def maximum(x: Any, y: Any) -> Any:
    """The larger of the two, element by element."""
    if isinstance(y, _NUMBERS):
        return (x if x > y else y) if isinstance(x, _NUMBERS) else torch.clamp_min(x, y)
    return torch.clamp_min(y, x) if isinstance(x, _NUMBERS) else torch.maximum(x, y)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of the two, element by element."""
    if isinstance(y, _NUMBERS):
        return (x if x < y else y) if isinstance(x, _NUMBERS) else torch.clamp_max(x, y)
    return torch.clamp_max(y, x) if isinstance(x, _NUMBERS) else torch.minimum(x, y)


def choose(condition: Any, x: Any, y: Any) -> Any:
    """One of two scalars, tensors, or tuples of them, by a condition that holds for the whole."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(x, tuple):
        parts = [choose(condition, a, b) for a, b in zip(x, y)]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return where(condition, x, y)


def where(condition: Any, x: Any, y: Any) -> Any:
    """``x`` where the condition holds, else ``y``."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(x, _NUMBERS) and isinstance(y, _NUMBERS):
        # torch.where would round two numbers to the default dtype; scalars are kept in float64.
        x = torch.full_like(condition, x, dtype=torch.float64)
    return torch.where(condition, x, y)
