"""Handwritten digits, one network trained three ways by one optimizer.

(a) a plain ``torch.func.grad`` loop;
(b) 64 networks at once under ``torch.vmap``, each with its own learning rate, one call per step;
(c) gradient, clipping, schedule and update in one graph of ``torch.compile(fullgraph=True)``.

The three start from the same weights and see the same batches, so (c) and the member of (b) that has (a)'s learning
rate must end where (a) ends, which is checked. Run it with ``make demo``: half a minute, and it writes ``digits.png``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.func import functional_call, grad_and_value

import optimfx as fx

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LR = 1e-2
MEMBERS = 64
STEPS = 400
BATCH = 128


class Digits(NamedTuple):
    """Pixels in [0, 1] as (images, 64), and labels."""

    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor


class Result(NamedTuple):
    """The results of a method: parameters, the loss at each step, and how fast it went."""

    params: dict[str, torch.Tensor]
    losses: torch.Tensor
    steps_per_second: float


def load() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels), random_state=0, stratify=labels
    )
    return Digits(x, y, x_test, y_test)


torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(functional_call(network, params, (x,)), y)


def optimizer(lr: Any) -> fx.GradientTransformation:
    """The optimizer of all three ways; ``lr`` is a number or a tensor."""
    return fx.chain(
        fx.clip_by_global_norm(1.0),
        fx.adamw(lr=fx.schedules.cosine_annealing(lr, STEPS), weight_decay=1e-2),
    )


def step(lr: Any, state: Any, params: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[Any, Any, torch.Tensor]:
    """One step of training, a pure function: ``(params, state, loss)``."""
    grads, value = grad_and_value(loss)(params, x, y)
    params, state = fx.step(optimizer(lr), grads, state, params)
    return params, state, value


def batches(digits: Digits) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of the whole run, the same for every method."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(digits.x), (BATCH,), generator=generator) for _ in range(STEPS)]
    return [(digits.x[i], digits.y[i]) for i in rows]


def train(step: Any, lr: Any, params: Any, state: Any, data: Any, progress: Progress, name: str) -> Result:
    """Run every batch through ``step``. Time is counted from the second call on: the first may compile."""
    if not progress.console.is_terminal:
        print(f"{name}: {len(data)} steps", flush=True)
    losses, begin = [], time.perf_counter()
    for i, (x, y) in enumerate(progress.track(data, description=name)):
        params, state, value = step(lr, state, params, x, y)
        losses.append(value)
        if i == 0:
            begin = time.perf_counter()
    return Result(params, torch.stack(losses), (len(data) - 1) / (time.perf_counter() - begin))


def accuracy(params: Any, digits: Digits) -> torch.Tensor:
    return (functional_call(network, params, (digits.x_test,)).argmax(-1) == digits.y_test).float().mean()


def plot(
    path: Path, loop: Result, population: Result, compiled: Result, lrs: torch.Tensor, scores: torch.Tensor
) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    curves = population.losses.detach()
    low, middle, high = curves.nanquantile(torch.tensor([0.1, 0.5, 0.9]), dim=1)
    left.fill_between(range(STEPS), low, high, alpha=0.2, color="C1", label="(b) population, 10-90 %")
    left.plot(middle, color="C1", label="(b) population, median")
    left.plot(loop.losses.detach(), color="C0", label=f"(a) loop, lr = {LR:g}")
    left.plot(compiled.losses.detach(), color="C2", linestyle=":", linewidth=2.5, label="(c) compiled, the same run")
    left.set(title="Training loss", xlabel="step", ylabel="cross entropy", yscale="log")
    left.legend()
    right.semilogx(lrs, 100 * scores, "o-", color="C1", markersize=4)
    right.axvline(LR, color="C0", linestyle="--", label=f"(a): lr = {LR:g}")
    right.set(title=f"{MEMBERS} models trained at once", xlabel="learning rate", ylabel="test accuracy (%)")
    right.legend(loc="lower center")
    figure.savefig(path, dpi=120)


def warn_if_busy() -> None:
    """Say that speeds mean nothing where other programs take the cores."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > cores / 2:
        print(f"This machine is busy (a load of {load:.1f} on {cores} cores): what follows says little about speed.")


def main(path: Path) -> None:
    print("Three trainings of a small network: about half a minute on two cores.", flush=True)
    warn_if_busy()
    digits = load()
    data = batches(digits)
    params = {name: p.detach() for name, p in network.named_parameters()}
    state = optimizer(LR).init(params)

    lrs = torch.logspace(-5, 0, MEMBERS)
    twin = int((lrs - LR).abs().argmin())
    lrs[twin] = LR
    members = {name: p.expand(MEMBERS, *p.shape) for name, p in params.items()}

    # Without a C++ compiler the graph is captured all the same, and run operation by operation.
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "aot_eager"

    columns = TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        loop = train(step, LR, params, state, data, progress, "(a) torch.func.grad loop")
        population = train(
            torch.vmap(step, in_dims=(0, 0, 0, None, None)),
            lrs,
            members,
            torch.vmap(optimizer(LR).init)(members),
            data,
            progress,
            f"(b) vmap, {MEMBERS} models",
        )
        torch._dynamo.utils.counters.clear()
        one_graph = torch.compile(step, fullgraph=True, backend=backend)
        compiled = train(one_graph, LR, params, state, data, progress, f"(c) torch.compile, {backend}")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1, f"the compiled step was compiled {graphs} times"

    scores = torch.vmap(lambda p: accuracy(p, digits))(population.params)
    results = {
        "(a) torch.func.grad loop": (accuracy(loop.params, digits), loop.steps_per_second),
        f"(b) vmap, {MEMBERS} models, best": (scores.max(), population.steps_per_second),
        f"(b) vmap, member with lr = {LR:g}": (scores[twin], population.steps_per_second),
        f"(c) torch.compile, {backend}": (accuracy(compiled.params, digits), compiled.steps_per_second),
    }

    # The same mathematics in three orders of rounding: after 400 steps the weights, of size 0.1, are 1e-6 apart.
    for name, p in loop.params.items():
        torch.testing.assert_close(population.params[name][twin], p, rtol=0, atol=1e-5)
        torch.testing.assert_close(compiled.params[name], p, rtol=0, atol=1e-5)
    assert results["(a) torch.func.grad loop"][0] >= 0.96, "the loop should classify 96 % of the test digits"

    table = Table("method", "test accuracy", "steps/s", "model steps/s", title=f"Digits, {STEPS} steps")
    for name, (score, speed) in results.items():
        models = MEMBERS if name.startswith("(b)") else 1
        table.add_row(name, f"{score:.1%}", f"{speed:,.0f}", f"{speed * models:,.0f}")
    console = Console()
    console.print(table)
    plot(path, loop, population, compiled, lrs, scores)
    console.print(f"loss curves and accuracies: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the picture goes")
    main(parser.parse_args().out)
