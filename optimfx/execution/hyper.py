"""Hyperparameters at a step: schedules asked, host tensors read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimfx.execution import modes


def number(x: Any) -> Any:
    """A plain host tensor as a Python number; what a tracer, autograd or another device holds stays a tensor.

    Numbers let the rule take torch's compound operations, so that eager steps round as ``torch.optim`` does.
    """
    if not isinstance(x, Tensor) or modes.tracing() or modes.differentiated(x) or x.device.type != "cpu":
        return x
    return x.item()


def resolve(hyper: Any, step: Any) -> Any:
    """A hyperparameter's value for the update that follows ``step`` updates."""
    if isinstance(hyper, (tuple, list)):
        return tuple(resolve(item, step) for item in hyper)
    return number(hyper(step) if callable(hyper) else hyper)


def scalars_at(update: Any, step: Any, **measured: Any) -> Any:
    """The rule's scalars for the update that takes the count to ``step``: a number, a tensor, or ``None``.

    ``measured`` are the scalars that come from the gradients rather than from the user.
    """
    before = None
    if step is not None:
        # float64, so that a bias correction such as 1 - 0.999**t keeps its digits when it is computed on tensors.
        step = step.to(torch.float64) if isinstance(step, Tensor) else int(step)
        before = step - 1
    hyper = {**update.hyper, **measured}
    return update.rule.scalars(step, **{name: resolve(hyper[name], before) for name in update.rule.scalar_names})
