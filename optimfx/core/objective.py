"""Functions of parameters, as functions of those tensors that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import tree
from optimfx.core.types import Params, Updates


def of_tensors(
    function: Callable[[Params], Any], params: Params
) -> tuple[Callable[[Sequence[Tensor]], Any], list[Tensor]]:
    """Return a function of the leaves that are not ``None``, which ``torch.func`` can derive, and these leaves."""
    column, spec = tree.flatten(params)

    def given(tensors: Sequence[Tensor]) -> Any:
        rest = iter(tensors)
        return function(tree.unflatten(spec, [None if p is None else next(rest) for p in column]))

    return given, [p for p in column if p is not None]


def value_and_grad(function: Callable[[Params], Tensor], params: Params) -> tuple[Tensor, Updates]:
    """Evaluate a function of the parameters, and its gradient, a tree like them."""
    given, tensors = of_tensors(function, params)
    grads, value = torch.func.grad_and_value(given)(tensors)
    column, spec = tree.flatten(params)
    rest = iter(grads)
    return value, tree.unflatten(spec, [None if p is None else next(rest) for p in column])
