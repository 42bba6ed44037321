"""Which rules an op is to run, in a word: graphs hold numbers, strings and tensors, and no rules."""

from __future__ import annotations

from collections import namedtuple
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from optimfx.execution.hyper import Step, Steps
from optimfx.execution.leaves import Leaves
from optimfx.execution.open import Open

LETTERS: dict[str, Any] = {"n": Open.NUMBER, "c": Open.CONDITION, "_": None, "t": True, "f": False}
"""How a scalar is spelled: what differs from call to call, or what it is."""

_rules: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()


def numbered(rule: Any) -> int:
    """The number by which an op finds the rule, for as long as that is there."""
    number = next(_numbers)
    _rules[number] = rule
    return number


def spell(steps: Steps, leaves: Leaves) -> str:
    """What an op is told: of each step the rule's number, its sign and its scalars; then which slots are kept."""
    words = []
    for step in steps:
        fields = [f"{field}:{letter(x)}" for field, x in zip(step.scalars._fields, step.scalars)]
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


def letter(x: Any) -> str:
    """How a scalar is spelled, or nothing for what is none."""
    if isinstance(x, Tensor):
        return "c" if x.dtype == torch.bool else "n"
    if isinstance(x, bool):
        return "t" if x else "f"
    if isinstance(x, (int, float)):
        return "n"
    return "_" if x is None or isinstance(x, torch.dtype) else ""
