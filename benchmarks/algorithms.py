"""The classes of torch.optim, and the ways to step them that are compared.

Not here: L-BFGS, whose time is that of the closure and of the line search, not of a step over the parameters; and
SparseAdam, which needs sparse gradients and has no other way to run than the one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from timing import Method
from torch import Tensor
from workloads import Shape

import optimfx as fx

TORCH = {"torch for-loop": {"foreach": False}, "torch foreach": {"foreach": True}, "torch fused": {"fused": True}}
OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours for-loop": {"foreach": False}, "ours fused": {"fused": True}}
PURE = {"pure in place": True, "pure out of place": False}


@dataclass(frozen=True)
class Algorithm:
    """A class of torch.optim with its options.

    Attributes:
        name: of the row.
        class_name: in torch.optim and in optimfx.optim.
        options: beyond the defaults.
        elementwise: whether an element depends on no other of its tensor; only these are in the geometric means.
        takes: the shapes that it can step.
    """

    name: str
    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    elementwise: bool = True
    takes: Callable[[Shape], bool] = lambda shape: True

    @property
    def factory(self) -> Callable[..., fx.GradientTransformation]:
        """The pure function of the same name."""
        factory: Callable[..., fx.GradientTransformation] = getattr(fx, self.class_name.lower())
        return factory


def is_hidden_matrix(shape: Shape) -> bool:
    """Whether Muon is for it: a matrix that is not an embedding, which is recognised by its vocabulary."""
    return len(shape) == 2 and max(shape) < 10_000


_ROWS = [
    *(Algorithm(name, name) for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam")),
    *(Algorithm(name, name) for name in ("RMSprop", "Rprop", "SGD")),
    Algorithm("SGD-momentum", "SGD", {"momentum": 0.9}),
    Algorithm("Muon", "Muon", elementwise=False, takes=is_hidden_matrix),
    Algorithm("Adafactor", "Adafactor", elementwise=False),
]
ALGORITHMS = {row.name: row for row in _ROWS if hasattr(torch.optim, row.class_name)}


def class_methods(algorithm: Algorithm, make_params: Callable[[], list[Tensor]]) -> Iterator[Method]:
    """The methods with a class; those that a class does not offer are left out."""
    for library, table in ((torch.optim, TORCH), (fx.optim, OURS)):
        make: Callable[..., torch.optim.Optimizer] = getattr(library, algorithm.class_name)
        known = inspect.signature(make).parameters
        for index, (name, flags) in enumerate(table.items()):
            # A class without flags has one way to run, shown in the first column.
            flags = {} if index == 0 and "foreach" not in known else flags
            if set(flags) <= set(known):
                yield Method(name, make(make_params(), **algorithm.options, **flags).step)


def pure_methods(algorithm: Algorithm, make_params: Callable[[], list[Tensor]]) -> Iterator[Method]:
    """``fx.step`` on a list of tensors, with and without giving up the buffers."""
    tx = algorithm.factory(**algorithm.options)
    for name, inplace in PURE.items():
        of = make_params()
        yield pure_method(name, tx, [p.detach() for p in of], [p.grad for p in of if p.grad is not None], inplace)


def pure_method(
    name: str,
    tx: fx.GradientTransformation,
    params: Any,
    given: list[Tensor],
    inplace: bool = True,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Method:
    """``fx.step`` with the gradients that are given, within a context."""
    state = tx.init(params)
    # In place, the gradients are given up too: they are made again before each step.
    grads = [grad.clone() for grad in given] if inplace else given

    def step() -> None:
        nonlocal params, state
        with within():
            params, state = fx.step(tx, grads, state, params, inplace=inplace)

    def prepare() -> None:
        if inplace:
            torch._foreach_copy_(grads, given)

    return Method(name, step, prepare)
