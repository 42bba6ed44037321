"""Encodes the rules of an op as a string: graphs hold numbers, strings and tensors, but not rules."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from optimfx.core.rule import rule_of
from optimfx.core.types import Value
from optimfx.execution.leaves import Leaves
from optimfx.execution.program.specialize import Dynamic
from optimfx.execution.step import Step, Steps

KINDS: dict[str, Any] = {"n": Dynamic.NUMBER, "c": Dynamic.CONDITION, "_": None, "t": True, "f": False}
"""One letter for each kind of scalar: a dynamic number, a dynamic condition, or a constant."""


def encode(executor: str, steps: Steps, leaves: Leaves) -> str:
    """Write what an op is told: who runs it; of each step the rule's number, sign and scalars; which slots are kept."""
    words = []
    for step in steps:
        fields = [f"{field}:{kind_code(x)}" for field, x in _fields(step.scalars)]
        words.append(f"{step.rule.id}{'-' if step.maximize else '+'}{','.join(fields)}")
    kept = "".join(["0" if column[0] is None else "1" for column in leaves.slots])
    return f"{executor}|{';'.join(words)}|{kept}"


@lru_cache(maxsize=256)
def decode(word: str) -> tuple[str, Steps, str]:
    """Read what an op is told: the executor, the steps with scalars open where calls differ, and the kept slots."""
    executor, words, kept = word.split("|")
    steps = []
    for each in words.split(";"):
        sign = "-" if "-" in each else "+"
        number, fields = each.split(sign)
        pairs = [field.split(":") for field in fields.split(",") if field]
        scalars = _scalars([(field.split("."), KINDS[code]) for field, code in pairs])
        steps.append(Step("", rule_of(int(number)), None, {}, sign == "-", scalars))
    return executor, tuple(steps), kept


def _fields(scalars: Value, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the scalars and their names, those of a rule within the rule as ``rule.name``."""
    for field, x in zip(scalars._fields, scalars):
        if hasattr(x, "_fields"):
            yield from _fields(x, f"{prefix}{field}.")
        else:
            yield f"{prefix}{field}", x


def _scalars(parts: Iterable[tuple[list[str], Any]]) -> Any:
    """Build the scalars from their names."""
    values = {}
    for field, group in groupby(parts, key=lambda part: part[0][0]):
        inner = [(names[1:], x) for names, x in group]
        values[field] = _scalars(inner) if inner[0][0] else inner[0][1]
    return namedtuple("Scalars", values)(**values)


def kind_code(x: Any) -> str:
    """How a scalar is spelled, or nothing for what is none."""
    if isinstance(x, Tensor):
        return "c" if x.dtype == torch.bool else "n"
    if isinstance(x, bool):
        return "t" if x else "f"
    if isinstance(x, (int, float)):
        return "n"
    return "_" if x is None or isinstance(x, torch.dtype) else ""
