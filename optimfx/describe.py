"""A transformation as a person reads it: what it is made of, with which hyperparameters, and how it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from optimfx.base import GradientTransformation, Params
from optimfx.execution import explain


class Description(str):
    """Text that a prompt shows as it is."""

    def __repr__(self) -> str:
        return str(self)


def describe(tx: GradientTransformation, params: Params | None = None) -> Description:
    """What a transformation is made of: a line for each part, with the hyperparameters that are not switched off.

    Args:
        tx: any transformation; one that is a pair of functions is shown by their name.
        params: with parameters, how a step of them in place runs is added, as :func:`optimfx.explain` tells.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(
    ...     fx.clip_by_global_norm(1.0),
    ...     fx.partition(
    ...         {"body": fx.lion(lr=fx.schedules.linear(3e-4)), "head": fx.sgd(lr=0.1)}, {"w": "body", "b": "head"}
    ...     ),
    ... )
    >>> fx.describe(tx)
    chain
    ├─ clip_by_global_norm(max_norm=1)
    └─ partition
       ├─ body: lion(lr=linear, betas=(0.9, 0.99))
       └─ head: sgd(lr=0.1)
    """
    lines = list(_lines(tx))
    return Description("\n".join(lines if params is None else [*lines, "", repr(explain(tx, params))]))


def _lines(tx: GradientTransformation) -> Iterator[str]:
    """The lines of a part, each as far to the left as if it stood alone."""
    if not hasattr(tx.update, "outline"):
        yield getattr(tx.update, "__qualname__", type(tx.update).__name__).partition(".")[0]
        return
    name, hyper, parts = tx.update.outline()
    shown = [f"{key}={_shown(value)}" for key, value in hyper.items() if _counts(value)]
    yield f"{name}({', '.join(shown)})" if shown else name
    for at, (label, part) in enumerate(parts):
        last = at == len(parts) - 1
        first, *rest = _lines(part)
        yield f"{'└─' if last else '├─'} {f'{label}: ' if label else ''}{first}"
        yield from (f"{' ' if last else '│'}  {line}" for line in rest)


def _counts(value: Any) -> bool:
    """Whether a hyperparameter is there and not switched off."""
    return value is not None and (isinstance(value, Tensor) or bool(value))


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if callable(value):  # a schedule, by the name of what made it
        return getattr(value, "__qualname__", type(value).__name__).partition(".")[0]
    if isinstance(value, Tensor):
        return f"tensor({value.item():g})" if value.numel() == 1 and value.device.type == "cpu" else "tensor"
    return f"{value:g}" if isinstance(value, float) else str(value)
