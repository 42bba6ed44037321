"""A training step as a CUDA graph: launched once, replayed from then on, while the learning rate changes.

On a machine without a CUDA GPU the same step is taken uncaptured, and only its losses are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import optree
import torch
from rich.console import Console
from torch import Tensor

import optimfx as fx

STEPS, WIDTH, LAYERS = 200, 64, 30
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"


def network() -> dict[str, Tensor]:
    """A deep and narrow one, of many small tensors: what takes long is to launch, not to compute."""
    torch.manual_seed(0)
    weights = {f"w{i}": torch.randn(WIDTH, WIDTH) / WIDTH**0.5 for i in range(LAYERS)}
    biases = {f"b{i}": torch.zeros(WIDTH) for i in range(LAYERS)}
    return {name: t.to(DEVICE) for name, t in (weights | biases).items()}


def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    for i in range(LAYERS):
        x = x + torch.tanh(x @ params[f"w{i}"] + params[f"b{i}"]) / LAYERS
    return (x - y).square().mean()


def training(lr: Tensor) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """A step, which returns its loss, and what draws the next batch into the same memory."""
    params = network()
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=lr))
    # A count on the host would be a constant of the graph.
    state = optree.tree_map(lambda t: t.to(DEVICE), tx.init(params))
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, y = torch.zeros(16, WIDTH, device=DEVICE), torch.zeros(16, WIDTH, device=DEVICE)

    def step() -> Tensor:
        grads, value = torch.func.grad_and_value(loss)(params, x, y)
        fx.step(tx, grads, state, params, inplace=True)
        return value

    def draw() -> None:
        x.normal_(generator=generator)
        y.copy_(x.roll(1, dims=1))

    return step, draw


def run(captured: bool) -> tuple[list[float], float]:
    """The losses, and the time of a step in milliseconds once it is warm."""
    lr = torch.tensor(0.0, device=DEVICE)
    step, draw = training(lr)
    if captured:
        step = fx.capture(step)
    losses = []
    begin = time.perf_counter()
    for i in range(STEPS):
        if i == STEPS // 2:
            begin = time.perf_counter()
        draw()
        lr.fill_(3e-3 * min(1.0, (i + 1) / 50) * (1 - i / STEPS))
        losses.append(step().clone())  # the next replay writes over it
    values = torch.stack(losses).tolist()
    return values, 1e3 * (time.perf_counter() - begin) / (STEPS - STEPS // 2)


def main() -> None:
    console = Console()
    launched, milliseconds = run(captured=False)
    console.print(f"{2 * LAYERS} tensors, {STEPS} steps: loss {launched[0]:.3f} -> {launched[-1]:.3f}")
    assert launched[-1] < launched[0]
    console.print(f"launched: {milliseconds:.2f} ms a step")
    if not HAS_GPU:
        console.print("There is no CUDA GPU: nothing is captured.")
        return
    replayed, milliseconds = run(captured=True)
    torch.testing.assert_close(torch.tensor(replayed), torch.tensor(launched), rtol=1e-3, atol=1e-5)
    console.print(f"replayed: {milliseconds:.2f} ms a step, with the same losses")


if __name__ == "__main__":
    main()
