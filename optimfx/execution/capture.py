"""Captures a step into a CUDA graph, which later calls replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class Captured(Generic[T]):
    """A function without arguments that is recorded at its second call."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.is_warm = False
        self.graph: Any = None
        self.result: Any = None

    def __call__(self) -> T:
        if self.graph is None and not self.is_warm:
            return self._warm_up()
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.result = self.function()
            self.graph = graph
        self.graph.replay()
        result: T = self.result
        return result

    def _warm_up(self) -> T:
        """Make the first call, which compiles kernels and begins the state."""
        # On a side stream, as torch.cuda.graph captures: libraries keep workspaces per stream.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = self.function()
        torch.cuda.current_stream().wait_stream(side)
        self.is_warm = True
        return result


def capture(function: Callable[[], T]) -> Callable[[], T]:
    """Record what a function does on the GPU into a CUDA graph, and replay it.

    A replay takes one launch, however many the function makes: 2000 small tensors are stepped in the time of one. Every
    call is one call of the function. The first runs it, so that kernels are compiled and state begins; the second
    records it and replays the record, as do all later ones.

    What the function reads and writes is at fixed addresses, so all that changes has to change in place:

    - parameters and state: :func:`~optimfx.step` with ``inplace=True``, or a class with ``capturable=True``;
    - the state's counts are on the GPU: ``state = optree.tree_map(lambda t: t.to("cuda"), tx.init(params))``;
    - gradients: ``zero_grad(set_to_none=False)``, or the function computes them;
    - a learning rate or weight decay that is to change is a 0-d tensor on the GPU, changed with ``fill_``.

    Args:
        function: takes no arguments; it must not wait for the GPU.

    Returns:
        The function that replays. What it returns is overwritten by the next call.

    Raises:
        RuntimeError: there is no CUDA GPU; at the second call, what torch raises where the function cannot be recorded,
            as with counts on the host.

    As ``torch.cuda.make_graphed_callables`` for a function that steps.

    >>> import torch, optree, optimfx as fx
    >>> if torch.cuda.is_available():
    ...     tx, params = fx.adamw(), [torch.zeros(3, device="cuda")]
    ...     grads, state = [torch.ones(3, device="cuda")], tx.init(params)
    ...     state = optree.tree_map(lambda t: t.to("cuda"), state)
    ...     step = fx.capture(lambda: fx.step(tx, grads, state, params, inplace=True))
    ...     for _ in range(10):
    ...         _ = step()
    """
    if not torch.cuda.is_available():
        raise RuntimeError("capture needs a CUDA GPU, and torch finds none; call the function itself.")
    return Captured(function)
