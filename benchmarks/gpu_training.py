"""A whole training step on a GPU: a transformer of 92 million parameters, with torch's optimizer, ours, and one graph.

A step is the loss, its gradient, clipping by the global norm and AdamW. Times are those of the device between events,
the methods in turns; the host's work counts where the device waits for it. Compiled, the gradient is one graph, with
an optimizer after it; or gradient and step are one graph, for which the time of the compilation is beside that of the
gradient alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_timing import Timed, seconds_of_device
from results import path_of, save
from rich.console import Console
from rich.table import Table
from timing import best_of_rounds
from torch import Tensor, nn
from torch.nn import functional

import optimfx as fx

VOCABULARY, WIDTH, HEADS, LAYERS = 16384, 1024, 16, 6
BATCH, LENGTH = 4, 512
LR, MAX_NORM = 1e-4, 1.0
TORCH, CHAIN, GRAPH = "torch's clip and fused AdamW", "our chain", "our step in the graph"


class Block(nn.Module):
    """Attention and a network for each position, each added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])
        self.mix, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.mix(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts.unbind(), is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        moved: Tensor = self.down(functional.gelu(self.up(self.norms[1](x))))
        return x + moved


class Transformer(nn.Module):
    """The loss of the next token; embedding and head share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.blocks(self.embed(tokens[:, :-1]))
        return functional.cross_entropy(
            functional.linear(hidden, self.embed.weight).flatten(0, 1), tokens[:, 1:].flatten()
        )


Step = Callable[[], object]


def transformation() -> fx.GradientTransformation:
    return fx.chain(fx.clip_by_global_norm(MAX_NORM), fx.adamw(lr=LR))


def optimizer_step(model: nn.Module, ours: bool) -> Step:
    """Clipping and AdamW on the gradients that the parameters have."""
    params = list(model.parameters())
    if ours:
        return fx.optim.TransformOptimizer(params, transformation()).step
    optimizer = torch.optim.AdamW(params, lr=LR, fused=True)

    def step() -> None:
        nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return step


def eager(make: Callable[[], nn.Module], tokens: Tensor, ours: bool) -> Step:
    model = make()
    update = optimizer_step(model, ours)

    def step() -> None:
        model(tokens).backward()
        update()
        model.zero_grad()

    return step


def loss_of(model: nn.Module) -> Callable[[Any, Tensor], Tensor]:
    return lambda params, tokens: torch.func.functional_call(model, params, (tokens,))


def compiled_gradient(make: Callable[[], nn.Module], tokens: Tensor, ours: bool, gradient: Callable[..., Any]) -> Step:
    """An optimizer after the gradient's graph."""
    model = make()
    update = optimizer_step(model, ours)
    params = dict(model.named_parameters())
    plain = {name: p.detach() for name, p in params.items()}

    def step() -> None:
        grads = gradient(plain, tokens)
        for name, p in params.items():
            p.grad = grads[name]
        update()

    return step


def compiled_whole(make: Callable[[], nn.Module], tokens: Tensor) -> Step:
    """Gradient and step in one graph, which writes parameters and state in place."""
    model = make()
    tx, loss = transformation(), loss_of(model)
    params = {name: p.detach() for name, p in model.named_parameters()}
    state = tx.init(params)

    @torch.compile(fullgraph=True)
    def whole(state: Any, params: Any, tokens: Tensor) -> Any:
        grads = torch.func.grad(loss)(params, tokens)
        return fx.step(tx, grads, state, params, inplace=True)

    kept = [params, state]

    def step() -> None:
        kept[:] = whole(kept[1], kept[0], tokens)

    return step


def first_call(step: Step) -> float:
    """Seconds until the device is done."""
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=6.0, help="seconds for the rounds, eager and compiled each")
    parser.add_argument("--only", choices=("eager", "compiled"), help="one of the two")
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), device="cuda")

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Transformer().cuda()

    size = sum(p.numel() for p in make().parameters())
    times: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}

    def measure(name: str, steps: dict[str, Step]) -> None:
        methods = [Timed(method, step, clock=seconds_of_device) for method, step in steps.items()]
        for method in methods:
            method.seconds()
        best, _ = best_of_rounds(methods, options.rounds, options.budget)
        times[name] = {method: 1e3 * found for method, found in best.items()}

    if options.only != "compiled":
        measure("eager", {TORCH: eager(make, tokens, False), CHAIN: eager(make, tokens, True)})
    if options.only != "eager":
        model = make()
        plain = {name: p.detach() for name, p in model.named_parameters()}
        gradient = torch.compile(torch.func.grad(loss_of(model)), fullgraph=True)
        seconds["gradient alone"] = first_call(lambda: gradient(plain, tokens))
        whole = compiled_whole(make, tokens)
        seconds["gradient and step"] = first_call(whole)
        steps = {TORCH: False, CHAIN: True}
        after = {name: compiled_gradient(make, tokens, ours, gradient) for name, ours in steps.items()}
        measure("compiled", {**after, GRAPH: whole})

    console = Console(width=120)
    table = Table(title=f"A training step of {size / 1e6:.0f} M parameters, ms")
    for head in ("", TORCH, CHAIN, GRAPH):
        table.add_column(head, justify="right")
    for name, found in times.items():
        table.add_row(name, *[f"{found[method]:.2f}" if method in found else "" for method in (TORCH, CHAIN, GRAPH)])
    console.print(table)
    console.print({name: f"{found:.0f} s to compile" for name, found in seconds.items()})
    out = options.out or path_of("training", device="cuda")
    save(out, "cuda", parameters=size, tensors=len(list(make().parameters())), milliseconds=times, compile=seconds)


if __name__ == "__main__":
    main()
