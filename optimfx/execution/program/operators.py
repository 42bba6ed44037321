"""Operators for stand-ins of tensors, such as lists and recorded values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _operator(function: Any) -> Callable[..., Any]:
    return lambda *operands: function(*operands)


class Operators:
    """Routes every operator to ``__torch_function__``, as torch's functions do."""

    __add__ = __radd__ = _operator(torch.add)
    __sub__ = _operator(torch.sub)
    __rsub__ = _operator(torch.rsub)
    __mul__ = __rmul__ = _operator(torch.mul)
    __truediv__ = _operator(torch.div)
    __rtruediv__ = _operator(lambda x, y: torch.reciprocal(x) * y)  # as torch.Tensor divides a number
    __pow__ = _operator(torch.pow)
    __neg__ = _operator(torch.neg)
    __gt__ = _operator(torch.gt)
    __ge__ = _operator(torch.ge)
    __lt__ = _operator(torch.lt)
    __le__ = _operator(torch.le)
    __eq__ = _operator(torch.eq)
    __ne__ = _operator(torch.ne)
    __or__ = _operator(torch.bitwise_or)
    __and__ = _operator(torch.bitwise_and)
    __invert__ = _operator(torch.bitwise_not)
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("a rule may not branch on the elements of a tensor; choose between values with ops.where")
