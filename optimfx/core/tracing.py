"""The context of a call: a tracer, a ``torch.func`` transform, or plain eager execution."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

from optimfx.core.types import Value


def active() -> bool:
    """Whether tensors may stand for something else than their own values, so that none may be read.

    True inside ``torch.compile`` and ``make_fx``, any ``torch.func`` transform, and forward-mode differentiation.
    """
    # The last three have no public API in torch; only this module uses them.
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def is_same_tensor(x: Any, y: Any) -> bool:
    """Whether two are the same tensor, looking through the wrappers of ``torch.vmap``."""
    if x is y or torch.compiler.is_compiling() or not isinstance(x, Tensor):
        return x is y
    functorch = torch._C._functorch
    if not functorch.is_batchedtensor(x):
        return False
    while functorch.is_batchedtensor(x) and functorch.is_batchedtensor(y):
        if functorch.maybe_get_level(x) != functorch.maybe_get_level(y):
            return False
        if functorch.maybe_get_bdim(x) != functorch.maybe_get_bdim(y):
            return False
        x, y = functorch.get_unwrapped(x), functorch.get_unwrapped(y)
    plain = type(x) is Tensor is type(y) and not (x.requires_grad or y.requires_grad)
    return plain and _memory(x) == _memory(y) and not functorch.is_functorch_wrapped_tensor(x)


def mapped(x: Tensor) -> bool:
    """Whether ``torch.vmap`` maps over this tensor, as far as can be seen outside of a compiler."""
    return not torch.compiler.is_compiling() and bool(torch._C._functorch.is_batchedtensor(x))


def _memory(x: Tensor) -> tuple[Any, ...]:
    return x.data_ptr(), x.dtype, x.shape, x.stride()


def forward_mode() -> bool:
    """Whether derivatives are computed along with values."""
    return forward_ad._current_level >= 0


def in_derivative() -> bool:
    """Whether ``torch.func`` takes a derivative of the call, also as far as a compiler sees: it enters the transforms.

    Of a tensor in a transform, a compiler does not say that it is differentiated.
    """
    kinds = {interpreter.key() for interpreter in retrieve_all_functorch_interpreters()}
    return bool(kinds & {torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp})


# The flag that torch.compiler.assume_constant_result sets; importing that takes a second.
in_derivative._dynamo_marked_constant = True  # type: ignore[attr-defined]


def requires_autograd(*tensors: Tensor | None) -> bool:
    """Whether autograd records what happens to any of these tensors."""
    # Not any(), which a compiler traces in Python, for thousands of leaves.
    return torch.is_grad_enabled() and True in [t.requires_grad for t in tensors if t is not None]


def is_derived(x: Tensor) -> bool:
    """Whether a derivative of what is computed from this tensor may be taken, in whatever way."""
    return requires_autograd(x) or (active() and (forward_mode() or in_derivative()))


def no_grad_if_inplace(inplace: bool, params: Sequence[Tensor | None] = ()) -> AbstractContextManager[object]:
    """Enter the mode in which buffers are reused: outside of autograd, under any ``torch.func`` transform."""
    if torch.compiler.is_compiling():
        # Dynamo does not tell whether a transform is active; but inside one, no leaf requires gradients.
        records = not any(p is not None and p.is_leaf and p.requires_grad for p in params)
    else:
        records = torch._C._functorch.peek_interpreter_stack() is not None or forward_mode()
    return torch.no_grad() if inplace and not records else nullcontext()


def read_number(x: Any) -> Any:
    """Read a plain host tensor of one number; leave what a tracer, autograd or another device holds a tensor.

    Numbers let a rule take torch's compound operations, so that eager steps round as ``torch.optim`` does.
    """
    if not isinstance(x, Tensor) or x.numel() != 1 or active() or requires_autograd(x) or x.device.type != "cpu":
        return x
    return x.item()


def read_numbers(xs: Sequence[Value]) -> list[Value]:
    """:func:`read_number` of each, checking only once for a tracer."""
    if active() or torch.is_grad_enabled():
        return [read_number(x) for x in xs]
    return [x.item() if isinstance(x, Tensor) and x.is_cpu else x for x in xs]


def read_bool(condition: Any) -> Any:
    """Read a condition as a bool, waiting for the device that computes it; leave what a tracer holds a tensor."""
    return condition if active() else bool(condition)
