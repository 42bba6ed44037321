"""A network for handwritten digits and its training in three libraries, each a function that runs all the steps."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sklearn.datasets import load_digits
from torch.func import grad_and_value

import optimfx as fx

WIDTHS = 64, 128, 128, 10
BATCH = 128
OPTIONS: dict[str, Any] = {"weight_decay": 1e-2}
LR = 1e-3

Params = dict[str, Any]
Run = Callable[[], float]


class Problem(NamedTuple):
    """Where training begins, and every batch of it; with several models each array of parameters has one more axis."""

    params: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    models: int

    def batches(self, array: Callable[[np.ndarray], Any]) -> list[tuple[Any, Any]]:
        return [(array(x), array(y)) for x, y in zip(self.x, self.y)]


def problem(models: int, steps: int) -> Problem:
    """The same for every library."""
    random = np.random.default_rng(0)
    pixels, labels = load_digits(return_X_y=True)
    rows = random.integers(len(pixels), size=(steps, BATCH))
    axis = (models,) if models > 1 else ()
    params = {}
    for i, (into, out) in enumerate(zip(WIDTHS, WIDTHS[1:])):
        params[f"w{i}"] = (random.standard_normal((*axis, into, out)) * (2 / into) ** 0.5).astype(np.float32)
        params[f"b{i}"] = np.zeros((*axis, out), np.float32)
    return Problem(params, (pixels[rows] / 16).astype(np.float32), labels[rows], models)


def logits(params: Params, x: Any, maximum: Callable[[Any], Any]) -> Any:
    """The network, in the operators that torch and JAX have in common."""
    for i in range(len(WIDTHS) - 2):
        x = maximum(x @ params[f"w{i}"] + params[f"b{i}"])
    return x @ params[f"w{i + 1}"] + params[f"b{i + 1}"]


def _torch_loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits(params, x, torch.relu), y)


def _torch_run(of: Problem, init: Any, advance: Any, compiled: bool) -> Run:
    """Training with ``init(params)`` and ``advance(grads, state, params)``, eager or in one compiled graph."""

    def step(params: Any, state: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        grads, value = grad_and_value(_torch_loss)(params, x, y)
        params, state = advance(grads, state, params)
        return params, state, value

    if of.models > 1:
        init, step = torch.vmap(init), torch.vmap(step, in_dims=(0, 0, None, None))
    if compiled:
        step = torch.compile(step, fullgraph=True)
    return _run(of, init, step, torch.from_numpy)


def _run(of: Problem, init: Any, step: Any, array: Callable[[np.ndarray], Any]) -> Run:
    """All the steps, on what ``array`` makes of the problem's arrays; reading the last value waits for them."""
    start = {name: array(p) for name, p in of.params.items()}
    first = init(start)
    batches = of.batches(array)

    def run() -> float:
        params, state = start, first
        for x, y in batches:
            params, state, value = step(params, state, x, y)
        return float(value.mean())

    return run


def ours(of: Problem, compiled: bool) -> Run:
    tx = fx.adamw(lr=LR, **OPTIONS)
    return _torch_run(of, tx.init, lambda grads, state, params: fx.step(tx, grads, state, params), compiled)


def torchopt(of: Problem, compiled: bool) -> Run:
    """Raises ImportError where TorchOpt is not installed, or not for this Python."""
    library = import_module("torchopt")
    tx = library.adamw(lr=LR, **OPTIONS)

    def advance(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params=params, inplace=False)
        return library.apply_updates(params, updates, inplace=False), state

    return _torch_run(of, tx.init, advance, compiled)


def optax_jit(of: Problem) -> Run:
    tx = optax.adamw(LR, **OPTIONS)

    def loss(params: Params, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x, jax.nn.relu), y).mean()

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    init = tx.init
    if of.models > 1:
        init, step = jax.vmap(init), jax.vmap(step, in_axes=(0, 0, None, None))
    return _run(of, init, jax.jit(step), jnp.asarray)
