"""Prints transformations and their states."""

from __future__ import annotations

import functools
import inspect
import math
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._dtype_abbrs import dtype_abbrs

from optimfx.core import tracing, tree
from optimfx.core.types import Array, Value

LINE = 100
"""Greatest width of a line of a printed state."""

State = TypeVar("State")


def call(name: str, hyper: dict[str, Value], parts: Sequence[str] = ()) -> str:
    """Write a transformation as the call that makes it, without what is switched off by default."""
    defaults = _defaults(name, hyper)
    if defaults is not None:
        hyper = {key: value for key, value in hyper.items() if key in defaults and (_on(value) or _on(defaults[key]))}
    else:
        hyper = {key: value for key, value in hyper.items() if _on(value)}
    return f"{name}({', '.join([*parts, *(f'{key}={_hyper(value)}' for key, value in hyper.items())])})"


def _defaults(name: str, hyper: dict[str, Value]) -> dict[str, Any] | None:
    """Return the arguments of our factory of this name, if it made a transformation with these hyperparameters.

    These are at least the factory's arguments: a rule of several factories has those of the others too.
    """
    factory = getattr(sys.modules["optimfx"], name, None)
    if not inspect.isfunction(factory):
        return None
    defaults = {key: parameter.default for key, parameter in inspect.signature(factory).parameters.items()}
    return defaults if defaults.keys() <= hyper.keys() else None


def name_of(function: Any) -> str:
    """Return the name of a function, or of what made it."""
    return str(getattr(function, "__qualname__", type(function).__name__)).partition(".")[0]


def with_compact_repr(state: type[State]) -> type[State]:
    """Give a NamedTuple that has no ``__repr__`` of its own one of dtypes and shapes in place of numbers.

    A tensor of one number, on the CPU, is shown as that, and once for all leaves if it is the same whole number for
    all; of a tree that does not fit into a line, what it amounts to.

    >>> import torch, optimfx as fx
    >>> fx.adam().init({"w": torch.zeros(64, 10), "b": torch.zeros(10)})
    AdamState(
        step=0,
        exp_avg={'w': f32[64, 10], 'b': f32[10]},
        exp_avg_sq={'w': f32[64, 10], 'b': f32[10]},
        max_exp_avg_sq=(),
    )
    >>> fx.sgd(momentum=0.9).init([torch.zeros(64, 64, dtype=torch.bfloat16)] * 300)
    SGDState(step=0, momentum_buffer=<300 leaves, 1,228,800 elements, bf16, 2.46 MB>)
    """
    if getattr(state.__repr__, "__module__", None) == "collections":  # where NamedTuples get theirs
        state.__repr__ = _state  # type: ignore[method-assign]
    return state


class ReprString(str):
    """A text that is shown as it is, at a prompt and in a tree."""

    def __repr__(self) -> str:
        return str(self)


def _state(state: Any) -> str:
    fields = [f"{field}={_tree(value)}" for field, value in zip(state._fields, state)]
    inside = ", ".join(fields)
    if len(inside) > LINE:
        inside = textwrap.indent("".join(f"\n{field}," for field in fields), "    ") + "\n"
    return f"{type(state).__name__}({inside})"


def _tree(value: Any) -> str:
    leaves, spec = optree.tree_flatten(value, is_leaf=_is_state, none_is_leaf=True, namespace=tree.NAMESPACE)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) > 1 and (all(tensor is tensors[0] for tensor in tensors) or _are_one_count(tensors)):
        return _leaf(tensors[0])
    whole = repr(tree.unflatten(spec, [ReprString(_leaf(leaf)) for leaf in leaves]))
    return whole if len(whole) <= LINE or any(map(_is_state, leaves)) else f"<{_amount(tensors)}>"


def _are_one_count(tensors: Sequence[Tensor]) -> bool:
    """Whether all are the same whole number, as the step counts of leaves are that were always stepped together."""
    values = [None if tensor.is_complex() else _read(tensor) for tensor in tensors]
    return values[0] is not None and float(values[0]).is_integer() and values.count(values[0]) == len(values)


def _is_state(value: Any) -> bool:
    return vars(type(value)).get("__repr__") is _state


def _leaf(leaf: Array) -> str:
    if not isinstance(leaf, Tensor):
        return repr(leaf)
    value = _read(leaf)
    return _number(value) if value is not None else _dtype(leaf) + str(list(leaf.shape)) + _device(leaf)


def _amount(tensors: Sequence[Tensor]) -> str:
    """Sum up many tensors: how many elements, of which dtypes, on which devices; or the range of numbers."""
    values = [_read(tensor) for tensor in tensors]
    if all(isinstance(value, (int, float)) for value in values):
        low, high = _number(min(values)), _number(max(values))
        return f"{len(values)} numbers, " + (f"all {low}" if low == high else f"{low} to {high}")
    kinds = " and ".join(dict.fromkeys(_dtype(tensor) + _device(tensor) for tensor in tensors))
    sizes = [math.prod(tensor.shape) for tensor in tensors]
    elements, size = sum(sizes), sum(n * tensor.itemsize for n, tensor in zip(sizes, tensors))
    symbolic = not isinstance(elements, int)
    return f"{len(tensors)} leaves, " + (kinds if symbolic else f"{elements:,} elements, {kinds}, {_bytes(size)}")


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _dtype(tensor: Tensor) -> str:
    return dtype_abbrs.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))


def _device(tensor: Tensor) -> str:
    return "" if tensor.device.type == "cpu" else f" on {tensor.device}"


def _read(tensor: Tensor) -> Any:
    """Return the number of a 0-d tensor that can be read: on the host, and not in the hands of a tracer."""
    if type(tensor) is not Tensor or tensor.dim() or tensor.device.type != "cpu" or tracing.active():
        return None
    try:
        return tensor.item()
    except RuntimeError:  # a tensor that escaped from a torch.func transform
        return None


def _number(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e9
    return f"{value:.0f}" if whole else f"{value:g}" if isinstance(value, (float, complex)) else str(value)


def _hyper(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_hyper, value))})"
    if callable(value) and not isinstance(value, Tensor):  # a schedule, which may show itself
        shows_itself = "__repr__" in vars(type(value)) and not inspect.isroutine(value) and not inspect.isclass(value)
        return repr(value) if shows_itself and not isinstance(value, functools.partial) else name_of(value)
    if isinstance(value, Tensor):
        number = _read(value)
        return "tensor" if number is None else f"tensor({_number(number)})"
    return str(value).removesuffix(".0")


def _on(value: Any) -> bool:
    """Whether a hyperparameter is there and not switched off."""
    return value is not None and (isinstance(value, Tensor) or bool(value))


def state_class(cls: type[State]) -> type[State]:
    """Make a NamedTuple that a prompt shows as dtypes and shapes, and that ``torch.load`` and ``torch.export`` take.

    >>> import io, torch, optimfx as fx
    >>> file = io.BytesIO()
    >>> torch.save(fx.adam().init(torch.zeros(3)), file)
    >>> torch.load(io.BytesIO(file.getvalue()))
    AdamState(step=0, exp_avg=f32[3], exp_avg_sq=f32[3], max_exp_avg_sq=())
    """
    torch.serialization.add_safe_globals([cls])
    if cls not in pytree.SUPPORTED_NODES:  # a rule may be made twice of one class
        pytree._register_namedtuple(cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
    return with_compact_repr(cls)
