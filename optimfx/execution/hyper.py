"""Hyperparameters at a step: schedules asked, host tensors read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimfx.modes import number


def tensor_like(x: Any, like: Tensor) -> Tensor:
    """A scalar as a 0-d tensor of its own, with the dtype and device of another."""
    return x.to(like, copy=True) if isinstance(x, Tensor) else torch.tensor(x, dtype=like.dtype, device=like.device)


def count(step: Any) -> Any:
    """A number of steps as schedules and rules compute with it: an integer, or a float64 tensor."""
    step = number(step)
    return _wide(step) if isinstance(step, Tensor) else int(step)


def resolve(hyper: Any, step: Any) -> Any:
    """A hyperparameter's value for the update that follows ``step`` updates."""
    if isinstance(hyper, (tuple, list)):
        return tuple(resolve(item, step) for item in hyper)
    return number(hyper(step) if callable(hyper) else hyper)


def scalars_at(update: Any, step: Any, **given: Any) -> Any:
    """The rule's scalars for the update that takes the count to ``step``: a number, a tensor, or ``None``.

    ``given`` are the scalars that come from the state or the gradients rather than from the user.
    """
    before = None
    if step is not None:
        step = count(step)
        before = step - 1
    names = update.rule.scalar_names
    hyper = {name: resolve(update.hyper[name], before) for name in names if name not in given}
    return update.rule.scalars(step, **hyper, **{name: _wide(given[name]) for name in names if name in given})


def first_scalars(update: Any) -> Any:
    """The scalars of the first step, with a gradient of norm 1: what they are made of, if not their values."""
    return scalars_at(update, 1 if update.counts else None, **carried_at_first(update), global_norm=1.0)


def carried_at_first(update: Any) -> dict[str, Any]:
    """The values with which the scalars that the rule carries begin."""
    rule = update.rule
    return dict(zip(rule.carried, rule.begin(**{name: update.hyper[name] for name in rule.begin_names})))


def _wide(x: Any) -> Any:
    """A scalar in float64, so that a bias correction such as 1 - 0.999**t keeps its digits when it is on tensors."""
    return x.to(torch.float64) if isinstance(x, Tensor) else x
