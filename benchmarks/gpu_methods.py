"""The ways to step on a GPU that are compared: torch's, and ours launched one by one and replayed as a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optree
import torch
from algorithms import ALGORITHMS as TORCHS
from algorithms import TORCH, Algorithm
from kernel_inventory import source
from torch import Tensor

import optimfx as fx

CLIPPED = "clip + AdamW"
_BEYOND = ("SignSGD", "Lion", "AdaBelief", "Yogi", "Adan", "AdEMAMix", "ADOPT")
_WHOLE = ("LARS", "LAMB", "NovoGrad")
ALGORITHMS = {
    **TORCHS,
    CLIPPED: Algorithm(CLIPPED, "AdamW"),
    **{name: Algorithm(name, name) for name in _BEYOND},
    **{name: Algorithm(name, name, elementwise=False) for name in _WHOLE},
}
"""Those of torch, with what torch does in two calls; and those that torch does not have."""

COMPILED = "torch compiled"
MOST_COMPILED = 200
"""Tensors; Inductor takes minutes for a step of more."""
OURS = {"ours": "launched", "ours replayed": "replayed as a CUDA graph"}
METHODS = [*TORCH, COMPILED, *OURS]

Step = Callable[[], object]
Making = tuple[str, Callable[[], Step]]


def transformation(algorithm: Algorithm) -> fx.GradientTransformation:
    tx = algorithm.factory(**algorithm.options)
    return fx.chain(fx.clip_by_global_norm(1.0), tx) if algorithm.name == CLIPPED else tx


def traffic(algorithm: Algorithm, dtype: torch.dtype) -> int | None:
    """Bytes that a step reads and writes at least for an element; ``None`` where that is not known.

    Each column is read once and each result written once; what has to be measured before is read for that, too.
    """
    update: Any = transformation(algorithm).update
    links = [link.update for link in update.links] if hasattr(update, "links") else [update]
    if not all(link.rule.has_kernel for link in links):
        return None
    text = source(links, dtype)
    norms = any(link.rule.needs_global_norm for link in links)
    return (text.count("tl.load(a") + text.count("tl.store(a") + norms) * dtype.itemsize


def makings(algorithm: Algorithm, params: Sequence[Tensor], device: str) -> Iterator[Making]:
    """Yield each method by its name. They step the same parameters, and where they can in the same state."""
    shared: dict[Tensor, dict[str, Any]] = {}
    theirs = getattr(torch.optim, algorithm.class_name, None)
    known = inspect.signature(theirs).parameters if theirs else {}
    for index, (name, flags) in enumerate(TORCH.items() if theirs else ()):
        flags = {} if index == 0 and "foreach" not in known else flags
        if set(flags) <= set(known):
            yield name, lambda flags=flags: _torch_step(algorithm, params, shared, flags)
    if theirs and device != "cpu" and len(params) <= MOST_COMPILED:
        flags = {flag: True for flag in ("foreach", "capturable") if flag in known}
        yield COMPILED, lambda: torch.compile(_torch_step(algorithm, params, shared, flags))
    yield "ours", lambda: _our_step(algorithm, params, shared)
    if device != "cpu" and algorithm.elementwise:
        yield "ours replayed", lambda: _replayed(transformation(algorithm), params, device)


def _torch_step(algorithm: Algorithm, params: Sequence[Tensor], shared: Any, flags: dict[str, Any]) -> Step:
    make = getattr(torch.optim, algorithm.class_name)
    optimizer = _begun(make(params, **algorithm.options, **flags), shared)
    if algorithm.name != CLIPPED:
        return optimizer.step

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


def _our_step(algorithm: Algorithm, params: Sequence[Tensor], shared: Any) -> Step:
    if algorithm.name == CLIPPED:
        return fx.optim.TransformOptimizer(params, transformation(algorithm)).step
    make: Any = getattr(fx.optim, algorithm.class_name)
    return _begun(make(params, **algorithm.options), shared).step


def _begun(optimizer: torch.optim.Optimizer, shared: dict[Tensor, dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer after a step, in the state of the first: memory does not suffice for a state each."""
    optimizer.step()
    for p, state in optimizer.state.items():
        own = shared.setdefault(p, state)
        for name, x in state.items():
            if isinstance(x, Tensor) and x.dim() and x.dtype == own[name].dtype:
                state[name] = own[name]
    return optimizer


def _replayed(tx: fx.GradientTransformation, params: Sequence[Tensor], device: str) -> Step:
    """A graph of a pure step in place, its count on the device, so that it goes on from replay to replay."""
    whole: Any = [p.detach() for p in params]
    grads = [p.grad for p in params]
    state: Any = optree.tree_map(lambda t: t.to(device), tx.init(whole))

    def step() -> None:
        fx.step(tx, grads, state, whole, inplace=True)

    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # where kernels are compiled
        step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step()
    return _Replay(graph, state)


class _Replay:
    """A graph, and what it reads and writes."""

    def __init__(self, graph: Any, state: Any) -> None:
        self.graph, self.state = graph, state

    def __call__(self) -> None:
        self.graph.replay()
