"""The kernel as an op of torch: one node for ``torch.compile``, ``torch.vmap`` and ``torch.func.grad``.

A graph holds numbers, strings and tensors, and so the op is told in a word which rules it runs: whoever traces spells
it, the op reads it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from optimfx import modes
from optimfx.execution import eager
from optimfx.execution.hyper import Step, Steps, typed
from optimfx.execution.leaves import Leaves
from optimfx.execution.open import Open, filled
from optimfx.execution.triton import build, launch
from optimfx.execution.triton.kernels import source
from optimfx.execution.triton.words import DTYPES

name = "triton"
virtue = "one kernel for all leaves, as an op"

LETTERS: dict[str, Any] = {"n": Open.NUMBER, "c": Open.CONDITION, "_": None, "t": True, "f": False}
"""How a scalar is spelled: what differs from call to call, or what it is."""

_rules: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()


def numbered(rule: Any) -> int:
    """The number by which an op finds the rule, for as long as that is there."""
    number = next(_numbers)
    _rules[number] = rule
    return number


def refusal(steps: Steps, leaves: Leaves) -> str | None:
    """Why an op cannot run these leaves, which may be tracers."""
    if not build.serves(leaves.grads[0].device):
        return "no kernels here"
    if modes.forward_mode() or (torch.compiler.is_compiling() and _differentiated(steps, leaves)):
        return "a derivative that a kernel does not have"
    if not all(step.rule.elementwise for step in steps):
        return "the rule is not elementwise"
    columns = [c for c in (leaves.params, leaves.grads, *leaves.slots) if c[0] is not None]
    if not all(column[0].dtype in DTYPES for column in columns):
        return "no kernel for these dtypes"
    return None if all(_letter(x) for step in steps for x in step.scalars) else "a scalar that is not one"


def run(steps: Steps, leaves: Leaves, *, stepping: bool, inplace: bool) -> tuple[list[Any], list[list[Any]]]:
    """The results, and the new slots by column."""
    word = spell(steps, leaves)
    device = leaves.grads[0].device
    scalars = [x for step in steps for x in step.scalars if _letter(x) in ("n", "c")]
    numbers = [_number(x, device) for x in scalars] or [torch.zeros(0, dtype=torch.float64, device=device)]
    hyper = torch.stack(torch.broadcast_tensors(*numbers))  # type: ignore[no-untyped-call]
    params, grads = [] if leaves.params[0] is None else list(leaves.params), list(leaves.grads)
    slots = [t for column in leaves.slots if column[0] is not None for t in column]
    if inplace and stepping and torch.compiler.is_compiling():
        torch.ops.optimfx.step_(word, params, grads, slots, hyper)
        return params, [list(column) for column in leaves.slots]
    if _differentiated(steps, leaves):
        how = word, stepping, 1, len(params), len(grads)
        new = list(Differentiable.apply(*how, hyper, *params, *grads, *slots))  # type: ignore[no-untyped-call]
    else:
        new = torch.ops.optimfx.update(word, stepping, params, grads, slots, hyper, 1)
    if inplace:
        for old, value in zip((*(params if stepping else grads), *slots), new):
            old.copy_(value)
        return list(leaves.params if stepping else leaves.grads), [list(column) for column in leaves.slots]
    parts = iter([new[i : i + len(grads)] for i in range(0, len(new), len(grads))])
    return next(parts), [[None] * len(grads) if column[0] is None else next(parts) for column in leaves.slots]


def spell(steps: Steps, leaves: Leaves) -> str:
    """What an op is told: of each step the rule's number, its sign and its scalars; then which slots are kept."""
    words = []
    for step in steps:
        fields = [f"{field}:{_letter(x)}" for field, x in zip(step.scalars._fields, step.scalars)]
        words.append(f"{step.rule.number}{'-' if step.maximize else '+'}{','.join(fields)}")
    kept = "".join(["0" if column[0] is None else "1" for column in leaves.slots])
    return f"{';'.join(words)}|{kept}"


@lru_cache(maxsize=256)
def read(word: str) -> tuple[Steps, str]:
    """The steps, their scalars open where they differ from call to call; and which slots are kept."""
    words, kept = word.split("|")
    steps = []
    for each in words.split(";"):
        sign = "-" if "-" in each else "+"
        number, fields = each.split(sign)
        pairs = [field.split(":") for field in fields.split(",") if field]
        scalars: Any = namedtuple("Scalars", [field for field, _ in pairs])(*[LETTERS[letter] for _, letter in pairs])
        steps.append(Step("", _rules[int(number)], None, {}, scalars, sign == "-"))
    return tuple(steps), kept


def _letter(x: Any) -> str:
    """How a scalar is spelled, or nothing for what is none."""
    if isinstance(x, Tensor):
        return "c" if x.dtype == torch.bool else "n"
    if isinstance(x, bool):
        return "t" if x else "f"
    if isinstance(x, (int, float)):
        return "n"
    return "_" if x is None or isinstance(x, torch.dtype) else ""


def _number(x: Any, device: torch.device) -> Tensor:
    if isinstance(x, Tensor):
        return x.to(device=device, dtype=torch.float64)
    return torch.full((), x, dtype=torch.float64, device=device)


def _leaves(
    word: str, params: Sequence[Tensor], grads: Sequence[Tensor], slots: Sequence[Tensor]
) -> tuple[Steps, Leaves]:
    steps, kept = read(word)
    size = len(grads)
    parts = iter([slots[i : i + size] for i in range(0, len(slots), size)])
    columns = [next(parts) if there == "1" else [None] * size for there in kept]
    leaves = Leaves(params or [None] * size, grads, columns)
    return typed(steps, leaves.params[0]), leaves


def _flat(results: Sequence[Any], slots: Sequence[Sequence[Any]]) -> list[Tensor]:
    return [t for column in (results, *slots) for t in column if t is not None]


def _launched(
    word: str,
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    hyper: Tensor,
    *,
    stepping: bool,
    inplace: bool,
    members: int,
) -> list[Tensor]:
    steps, leaves = _leaves(word, params, grads, slots)
    text, reason = source(steps, [tuple(step.scalars) for step in steps], leaves, stepping, inplace)
    if reason is None:
        kernel, positional = build.kernel(text), any(step.rule.positional for step in steps)
        how: dict[str, Any] = {"stepping": stepping, "inplace": inplace, "positional": positional, "members": members}
        return _flat(*launch.run(kernel, hyper, leaves, **how))
    new = _plain(word, stepping, members, params, grads, slots, hyper)
    if inplace:
        torch._foreach_copy_([*params, *slots], new)
    return new


@torch.library.custom_op("optimfx::update", mutates_args=())
def update(
    word: str,
    stepping: bool,
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    hyper: Tensor,
    members: int,
) -> list[Tensor]:
    """The results and the new slots, column by column, of leaves that each consist of so many members."""
    return _launched(word, params, grads, slots, hyper, stepping=stepping, inplace=False, members=members)


@torch.library.custom_op("optimfx::step_", mutates_args=("params", "slots"))
def step_(word: str, params: list[Tensor], grads: list[Tensor], slots: list[Tensor], hyper: Tensor) -> None:
    """A step in place."""
    _launched(word, params, grads, slots, hyper, stepping=True, inplace=True, members=1)


@update.register_fake
def _(word, stepping, params, grads, slots, hyper, members):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t) for t in (*(params if stepping else grads), *slots)]


@update.register_vmap
def _(info, in_dims, word, stepping, params, grads, slots, hyper, members):  # type: ignore[no-untyped-def]
    size = info.batch_size

    def first(tensors: list[Tensor], dims: Any) -> list[Tensor]:
        dims = dims if isinstance(dims, (list, tuple)) else [dims] * len(tensors)
        return [_batched(t, dim, size).contiguous() for t, dim in zip(tensors, dims)]

    steps, _ = read(word)
    of_members = in_dims[5] is not None or members > 1 or any(step.rule.positional for step in steps)
    if of_members:
        hyper = _batched(hyper, in_dims[5], size).movedim(0, 1)  # shape=(scalars, size) or (scalars, size, members)
        hyper = hyper.expand(-1, -1, members) if hyper.dim() == 3 else hyper.unsqueeze(-1).expand(-1, -1, members)
        hyper, members = hyper.flatten(1), size * members
    columns = [first(tensors, dims) for tensors, dims in zip((params, grads, slots), in_dims[2:5])]
    new = torch.ops.optimfx.update(word, stepping, *columns, hyper, members)
    return new, [0] * len(new)


def _batched(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _plain(
    word: str,
    stepping: bool,
    members: int,
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Tensor],
    hyper: Tensor,
) -> list[Tensor]:
    """The same by the rules on tensors."""
    if members > 1:
        each = torch.vmap(lambda *args: _plain(word, stepping, 1, *args), in_dims=(0, 0, 0, 1))
        split = [[t.view(members, -1) for t in tensors] for tensors in (params, grads, slots)]
        like = (*(params if stepping else grads), *slots)
        return [new.view(t.shape) for new, t in zip(each(*split, hyper), like)]
    steps, leaves = _leaves(word, params, grads, slots)
    numbers = iter(hyper.unbind())
    whole = tuple([filled(step, tuple(step.scalars), numbers) for step in steps])
    return _flat(*eager.run(whole, leaves, stepping=stepping, inplace=False))


class Differentiable(torch.autograd.Function):
    """The op, with the derivative of the rule on tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        word: str, stepping: bool, members: int, first: int, second: int, hyper: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        parts = tensors[:first], tensors[first : first + second], tensors[first + second :]
        return tuple(torch.ops.optimfx.update(word, stepping, *map(list, parts), hyper, members))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *ctx.told, hyper = inputs[:6]
        ctx.save_for_backward(hyper, *inputs[6:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        word, stepping, members, first, second = ctx.told
        hyper, *tensors = ctx.saved_tensors
        parts = [tensors[:first], tensors[first : first + second], tensors[first + second :]]
        _, pull, *_ = torch.func.vjp(lambda *args: _plain(word, stepping, members, *args), *parts, hyper)
        *into, into_hyper = pull(list(cotangents))
        return (None,) * 5 + (into_hyper, *[t for part in into for t in part])


def _differentiated(steps: Steps, leaves: Leaves) -> bool:
    """Whether autograd, or a transform of ``torch.func``, follows what becomes of any of these."""
    scalars = [x for step in steps for x in step.scalars if isinstance(x, Tensor)]
    return modes.differentiated(*scalars, *[t for row in leaves.rows() for t in row])
