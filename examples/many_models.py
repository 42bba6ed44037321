"""Many small models, as a user of torch.func trains them: with rates of their own, learned starts, and summed batches.

(a) 32 networks under ``torch.vmap``, each with a learning rate of its own: the best of them is found in one run.
(b) MAML: a start from which three steps of gradient descent fit any of many sine waves; its gradient goes through the
    steps.
(c) Four small batches for one step, as ``multi_steps`` takes them, are one large batch: the weights must agree.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

import optimfx as fx

Params = dict[str, Tensor]
MODELS, WIDTH, POINTS, TASKS = 32, 40, 10, 16


def begin(seed: int = 0) -> Params:
    """A network with one hidden layer, from a number to a number."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "w1": torch.randn(1, WIDTH, generator=generator),
        "b1": torch.randn(WIDTH, generator=generator),
        "w2": torch.randn(WIDTH, 1, generator=generator) / WIDTH**0.5,
        "b2": torch.zeros(1),
    }


def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    hidden = torch.tanh(x @ params["w1"] + params["b1"])
    return (hidden @ params["w2"] + params["b2"] - y).square().mean()


def waves(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points of sine waves of random height and phase: (count, points, 1) each."""
    x = 10 * torch.rand(count, POINTS, 1, generator=generator) - 5
    height = 0.5 + 4.5 * torch.rand(count, 1, 1, generator=generator)
    phase = torch.pi * torch.rand(count, 1, 1, generator=generator)
    return x, height * torch.sin(x + phase)


def population(console: Console) -> None:
    """(a): one call steps all models; rate, state and parameters have one entry for each."""
    generator = torch.Generator().manual_seed(1)
    x = torch.linspace(-2, 2, 64)[:, None]
    y = torch.sin(3 * x) + 0.1 * torch.randn(x.shape, generator=generator)
    lrs = torch.logspace(-4, 0, MODELS)
    params = {name: p.expand(MODELS, *p.shape) for name, p in begin().items()}

    def step(lr: Tensor, state: Any, params: Params) -> tuple[Params, Any, Tensor]:
        grads, value = grad_and_value(loss)(params, x, y)
        params, state = fx.step(fx.adam(lr), grads, state, params)
        return params, state, value

    state = vmap(lambda lr, p: fx.adam(lr).init(p))(lrs, params)
    for _ in range(200):
        params, state, values = vmap(step)(lrs, state, params)
    best = int(values.nan_to_num(torch.inf).argmin())
    console.print(f"(a) {MODELS} rates: the best is {lrs[best]:.3g}, with a loss of {values[best]:.4f}")
    assert 1e-3 < lrs[best] < 1 and values[best] < 0.05


def meta_learning(console: Console) -> None:
    """(b): an optimizer inside is differentiated, one outside follows the gradient of what comes out."""
    inner, outer = fx.sgd(lr=0.02), fx.chain(fx.clip_by_global_norm(1.0), fx.adam(lr=3e-3))

    def adapted(params: Params, x: Tensor, y: Tensor) -> Params:
        state = inner.init(params)
        for _ in range(3):
            params, state = fx.step(inner, grad(loss)(params, x, y), state, params)
        return params

    def meta_loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        """The loss on half of the points of each wave, after steps on the other half."""
        half = POINTS // 2
        fitted = vmap(partial(adapted, params))(x[:, :half], y[:, :half])
        return vmap(loss)(fitted, x[:, half:], y[:, half:]).mean()

    generator, params = torch.Generator().manual_seed(2), begin()
    state = outer.init(params)
    test = waves(200, generator)
    before = meta_loss(params, *test)
    for _ in range(500):
        grads = grad(meta_loss)(params, *waves(TASKS, generator))
        params, state = fx.step(outer, grads, state, params)
    after = meta_loss(params, *test)
    console.print(f"(b) loss after three steps on a new wave: {before:.2f} from a random start, {after:.2f} learned")
    assert after < 0.8 * before


def accumulation(console: Console) -> None:
    """(c): the optimizer waits for four gradients, and steps on their mean."""
    generator = torch.Generator().manual_seed(3)
    x, y = waves(4 * 8, generator)
    x, y = x.reshape(8, 4, POINTS, 1), y.reshape(8, 4, POINTS, 1)
    whole = fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=1e-2))
    parts = fx.multi_steps(whole, every=4)
    large, small = begin(), begin()
    state, waiting = whole.init(large), parts.init(small)
    for xs, ys in zip(x, y):
        large, state = fx.step(whole, grad(loss)(large, xs.flatten(0, 1), ys.flatten(0, 1)), state, large)
        for xi, yi in zip(xs, ys):
            small, waiting = fx.step(parts, grad(loss)(small, xi, yi), waiting, small)
    apart = max((large[name] - small[name]).abs().max().item() for name in large)
    console.print(f"(c) 8 steps on four batches, and on one of four times the size: {apart:.1e} apart")
    assert apart < 1e-5


def main() -> None:
    console = Console()
    population(console)
    meta_learning(console)
    accumulation(console)


if __name__ == "__main__":
    main()
