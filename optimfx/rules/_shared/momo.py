"""The model of the loss that MoMo minimizes, with momentum and with Adam."""

from __future__ import annotations

import sys
from typing import NamedTuple

from optimfx import ops
from optimfx.core import Hyper, Scalar

CARRIES = ("barf", "gamma", "lb")
TOTALS = ("grad_dot", "avg_dot", "sq_norm")


class Model(NamedTuple):
    """A step to the least value of a model of the loss."""

    barf: Scalar
    gamma: Scalar
    lb: Scalar
    size: Scalar
    shrinkage: Scalar


def begin(lower_bound: Hyper) -> tuple[Scalar, Scalar, Scalar]:
    return 0.0, 0.0, ops.initial(lower_bound)


def minimize_model(
    barf: Scalar,
    gamma: Scalar,
    lb: Scalar,
    totals: tuple[Scalar, Scalar, Scalar],
    value: Scalar,
    weight: Scalar,
    bias_correction1: Scalar,
    lr: Scalar,
    lower_bound: Scalar,
    weight_decay: Scalar,
    adapt_lower_bound: bool,
) -> Model:
    """Choose the step size that minimizes the model ``max(lb, average of the linearized losses)``."""
    grad_dot, avg_dot, sq_norm = totals
    barf = barf + weight * (value - barf)
    gamma = gamma + weight * (grad_dot - gamma)
    growth = 1 + lr * weight_decay
    gap = growth * (barf - gamma) + avg_dot
    if adapt_lower_bound:
        is_too_high = gap < growth * bias_correction1 * lb
        lb = ops.where(is_too_high, ops.maximum(gap / (2 * bias_correction1 * growth), lower_bound), lb)
    is_small = sq_norm <= sys.float_info.epsilon
    size = ops.maximum(gap - growth * bias_correction1 * lb, 0) / ops.where(is_small, 1, sq_norm)
    size = ops.minimum(ops.where(is_small, 0, size), lr / bias_correction1)
    if adapt_lower_bound:
        lb = ops.maximum((barf + avg_dot - gamma - size * sq_norm / 2) / bias_correction1, lower_bound)
    return Model(barf, gamma, lb, size, lr * weight_decay / growth)
