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
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from optimfx.core import tree
from optimfx.core.tracing import is_derived, read_bool, read_number
from optimfx.core.types import Array
from optimfx.ops.rounding import multiply_in, rounded, rounded_stochastically

__all__ = [
    "abs",
    "add",
    "addcdiv",
    "addcmul",
    "addmm",
    "cast",
    "cbrt",
    "clamp",
    "concatenate",
    "cos",
    "decay",
    "decay_terms",
    "dot",
    "eigh",
    "either",
    "epsilon",
    "eye",
    "floor",
    "full_like",
    "full_tensor",
    "initial",
    "is_zero",
    "lerp",
    "log",
    "max_abs",
    "maximum",
    "mean",
    "minimum",
    "multiply_in",
    "nonfinite",
    "norm",
    "norm_tensor",
    "qr",
    "read_bool",
    "rms",
    "rounded",
    "rounded_stochastically",
    "rsqrt",
    "select_tree",
    "sign",
    "size",
    "sqrt",
    "stack",
    "total",
    "transpose",
    "unbind",
    "unless_zero",
    "where",
    "zeros",
    "zeros_like",
]

_NUMBERS = (int, float)


def is_zero(x: Array) -> bool:
    """Whether ``x`` is the number 0: a term that is switched off. A tensor never is, whatever its value."""
    return isinstance(x, _NUMBERS) and x == 0


def unless_zero(x: Array) -> Array:
    """``x``, or ``None`` when it is the number 0, so that a rule can leave the term out."""
    return None if is_zero(x) else x


def decay_terms(lr: Array, weight_decay: Array, decoupled: bool = True) -> tuple[Any, Any]:
    """Split weight decay into ``(l2, shrinkage)``: one is added to the gradient, the other shrinks the parameter.

    One is ``None``, and without decay both are: ``l2`` is ``weight_decay``, ``shrinkage`` is ``lr weight_decay``.
    """
    if is_zero(weight_decay):
        return None, None
    return (None, lr * weight_decay) if decoupled else (weight_decay, None)


def zeros_like(x: Array) -> Array:
    """Make a new state slot: zeros with the shape, dtype, device and layout of ``x``."""
    return torch.zeros_like(x)


def zeros(x: Array, shape: tuple[int, ...]) -> Array:
    """Make a new state slot of this shape: zeros with the dtype and device of ``x``, real where ``x`` is complex."""
    return (x.real if x.is_complex() else x).new_zeros(shape)


def full_like(x: Array, value: Array) -> Array:
    """Make a new state slot filled with a scalar, in each part of a complex number."""
    return (torch.zeros_like(x) + (value * (1 + 1j) if x.is_complex() else value)).to(x.dtype)


def initial(hyper: Array) -> Array:
    """Return a hyperparameter's value before the first step."""
    return hyper(0) if callable(hyper) else hyper


def add(base: Array, x: Array, alpha: Array = 1) -> Array:
    """Compute ``base + alpha x``."""
    if base is None:
        return x * alpha
    if isinstance(alpha, Tensor):
        return base + x * alpha
    return torch.add(base, x, alpha=alpha)


def addcmul(base: Array, a: Array, b: Array, value: Array = 1) -> Array:
    """Compute ``base + value a b``."""
    if base is None:
        return a * value * b
    if isinstance(value, Tensor):
        return base + a * value * b
    return torch.addcmul(base, a, b, value=value)


def addcdiv(base: Array, a: Array, b: Array, value: Array = 1) -> Array:
    """Compute ``base + value a / b``."""
    if base is None:
        return a * value / b
    if isinstance(value, Tensor):
        return base + a * value / b
    return torch.addcdiv(base, a, b, value=value)


def decay(base: Array, param: Array, rate: Array) -> Array:
    """Return ``(1 - rate) base``, or the increment ``-rate param`` when there is no base."""
    return param * -rate if base is None else base * (1 - rate)


def lerp(start: Array, end: Array, weight: Array) -> Array:
    """``start + weight (end - start)``."""
    if isinstance(weight, Tensor):
        return start + (end - start) * weight
    return torch.lerp(start, end, weight)


def addmm(base: Array, a: Array, b: Array, beta: Array = 1, alpha: Array = 1) -> Array:
    """``beta base + alpha a b`` of matrices, or of stacks of them."""
    if base.dim() != 2 or isinstance(beta, Tensor) or isinstance(alpha, Tensor):
        return base * beta + (a @ b) * alpha
    return torch.addmm(base, a, b, beta=beta, alpha=alpha)


def transpose(x: Array) -> Array:
    """Exchange rows and columns of a matrix, or of each of a stack."""
    return x.mT


def eye(x: Array, side: int) -> Array:
    """Make a new state slot: for each matrix of the stack ``x`` the identity with sides of this length."""
    # The sum, unlike the identity, has the dimensions of vmap that x has: a step in place writes to each.
    return zeros(x, (*x.shape[:-2], side, side)) + torch.eye(side, dtype=x.dtype, device=x.device)


def eigh(x: Array) -> tuple[Array, Array]:
    """Eigenvalues, from the largest, and eigenvectors of a symmetric matrix, or of each of a stack.

    Derivatives take them for constants: where two eigenvalues are equal, their vectors have none.
    """
    values, vectors = torch.linalg.eigh(_for_linalg(x))
    return values.flip(-1).to(x.dtype), vectors.flip(-1).to(x.dtype)


def qr(x: Array) -> Array:
    """Make the columns of a matrix orthonormal, from the first on. Derivatives take the result for a constant."""
    return torch.linalg.qr(_for_linalg(x))[0].to(x.dtype).contiguous()


def _for_linalg(x: Array) -> Array:
    """Return what LAPACK takes: in single precision at least, and finite; what is not finite, it refuses."""
    return torch.nan_to_num(x.detach().to(torch.promote_types(x.dtype, torch.float32)))


def full_tensor(x: Array) -> Array:
    """Return ``x``, gathered from all processes if it is a DTensor."""
    if not hasattr(x, "redistribute"):
        return x
    from torch.distributed.tensor import Replicate  # a heavy import, already done by whoever made ``x``

    return x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)


def norm(x: Array, dim: int | tuple[int, ...] | None = None, ord: float = 2) -> Array:
    """Measure the norm of a leaf, as a scalar; or along the dimensions, which are kept."""
    if dim is None and ord == 2 and not has_torch_function_unary(x):
        return read_number(cast(tree.norm(x), torch.float64))
    if dim is None:
        return read_number(cast(torch.linalg.vector_norm(x, ord), torch.float64))
    return torch.linalg.vector_norm(x, ord, dim=dim, keepdim=True)


def rms(x: Array, unit: Array = 1) -> Array:
    """Measure the root of the mean square of a leaf, over a unit, as a scalar; 0 if it is empty."""
    if not isinstance(x, Tensor):
        return norm(x) / (norm(x * 0 + 1) * unit)  # a kernel knows of a leaf what norms tell
    return norm(x) / (sqrt(max(1, x.numel())) * unit)


def norm_tensor(x: Array) -> Array:
    """Measure the 2-norm of a leaf: as :func:`norm`, but always as a tensor, even on the CPU, without synchronizing."""
    return torch.linalg.vector_norm(x)


def nonfinite(x: Array) -> Array:
    """Count the elements of a leaf that are infinite or NaN, as a tensor, without synchronizing."""
    return (~torch.isfinite(x)).sum().to(x.dtype)


def total(x: Array) -> Array:
    """Add up the elements of a leaf, as a 0-d float64 tensor, without synchronizing."""
    return torch.sum(x) if has_torch_function_unary(x) else torch.sum(x).to(torch.float64)


def max_abs(x: Array) -> Array:
    """Find the largest absolute value in a leaf, as a scalar; 0 if it is empty."""
    return norm(x, ord=math.inf) if x.numel() else 0.0


def dot(x: Array, y: Array) -> Array:
    """Compute the inner product of two vectors, as a scalar."""
    return read_number(torch.dot(x, y).to(torch.float64))


def unbind(x: Array) -> list[Any]:
    """Split along the first dimension, into vectors or scalars."""
    return [read_number(row) for row in x.unbind()] if x.dim() == 1 else list(x.unbind())


def stack(entries: Sequence[Any]) -> Array:
    """Stack vectors, or scalars, along a new first dimension."""
    return torch.stack(
        [row if isinstance(row, Tensor) else torch.tensor(row, dtype=torch.float64, device="cpu") for row in entries]
    )


def mean(x: Array, dim: int | tuple[int, ...]) -> Array:
    """Average along the dimensions, which are kept."""
    return x.mean(dim, keepdim=True)


def size(x: Array) -> Array:
    """Count the elements of a leaf: an integer, or what a tracer has for one."""
    return x.numel()


def cast(x: Array, dtype: torch.dtype) -> Array:
    """``x`` in this dtype."""
    if has_torch_function_unary(x):
        return handle_torch_function(cast, (x,), x, dtype)
    return x.to(dtype)


def epsilon(x: Array) -> float:
    """Return the distance from 1 to the next number in the dtype of ``x``."""
    return torch.finfo(x.dtype).eps


def sqrt(x: Array) -> Array:
    """Square root; its derivative at 0 is taken to be 0, as that of the modulus, for it is squares that have a root."""
    if isinstance(x, (torch.SymInt, torch.SymFloat)):
        return torch.sym_sqrt(x)
    if isinstance(x, Tensor) and is_derived(x):
        zero = x == 0
        return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))
    return math.sqrt(x) if isinstance(x, _NUMBERS) else torch.sqrt(x)


def rsqrt(x: Array) -> Array:
    """One over the square root."""
    return torch.rsqrt(x)


def cbrt(x: Array) -> Array:
    """Cube root of numbers that are not negative; its derivative at 0 is taken to be 0, as that of :func:`sqrt`."""
    if has_torch_function_unary(x):
        return handle_torch_function(cbrt, (x,), x)
    # In float32, torch's powers depend on where in a vector register a number is.
    root = x.double() ** (1 / 3) if not is_derived(x) else torch.where(x == 0, 1.0, x).double() ** (1 / 3)
    return (torch.where(x == 0, 0.0, root) if is_derived(x) else root).to(x.dtype)


def concatenate(parts: Sequence[Array]) -> Array:
    """Join vectors end to end."""
    return torch.cat(list(parts))


def cos(x: Array) -> Array:
    """Cosine of an angle in radians."""
    return math.cos(x) if isinstance(x, _NUMBERS) else torch.cos(x)


def log(x: Array) -> Array:
    """Natural logarithm."""
    return math.log(x) if isinstance(x, _NUMBERS) else torch.log(x)


def floor(x: Array) -> Array:
    """Round down to an integer."""
    return math.floor(x) if isinstance(x, _NUMBERS) else torch.floor(x)


def abs(x: Array) -> Array:
    """Absolute value."""
    return math.fabs(x) if isinstance(x, _NUMBERS) else torch.abs(x)


def sign(x: Array) -> Array:
    """-1, 0 or 1."""
    return torch.sign(x)


def clamp(x: Array, min: Array, max: Array) -> Array:
    """``x``, limited to ``[min, max]``."""
    return minimum(maximum(x, min), max)


def maximum(x: Array, y: Array) -> Array:
    """Take the larger of the two, element by element."""
    if isinstance(y, _NUMBERS):
        return (x if x > y else y) if isinstance(x, _NUMBERS) else torch.clamp_min(x, y)
    return torch.clamp_min(y, x) if isinstance(x, _NUMBERS) else torch.maximum(x, y)


def minimum(x: Array, y: Array) -> Array:
    """Take the smaller of the two, element by element."""
    if isinstance(y, _NUMBERS):
        return (x if x < y else y) if isinstance(x, _NUMBERS) else torch.clamp_max(x, y)
    return torch.clamp_max(y, x) if isinstance(x, _NUMBERS) else torch.minimum(x, y)


def either(condition: Array, yes: Callable[[], Array], no: Callable[[], Array]) -> Array:
    """One of two results; the other is computed too, if nobody can look at the condition."""
    if isinstance(condition, bool):
        return yes() if condition else no()
    return where(condition, yes(), no())


def select_tree(condition: Array, x: Array, y: Array) -> Array:
    """One of two scalars, tensors, or tuples of them, by a condition that holds for the whole."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(x, tuple):
        parts = [select_tree(condition, a, b) for a, b in zip(x, y)]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return where(condition, x, y)


def where(condition: Array, x: Array, y: Array) -> Array:
    """``x`` where the condition holds, else ``y``."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(x, _NUMBERS) and isinstance(y, _NUMBERS):
        # torch.where would round two numbers to the default dtype; scalars are kept in float64.
        x = torch.full_like(condition, x, dtype=torch.float64)
    return torch.where(condition, x, y)
