"""A small character transformer on Python's own documentation, killed in the middle of its training and resumed.

Matrices are stepped by Muon, all else by AdamW, in one transformation: clipping, a warm-up and a cosine, an average of
the parameters. Training runs in a process of its own, which is killed once it has written a checkpoint; a second one
goes on from there, and takes again the steps between the checkpoint and the end of the first. Their losses must be the
same, to the last bit. Writes ``gpt_char.png``.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import matplotlib
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import optimfx as fx

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS, BATCH, CONTEXT = 240, 16, 64
EVERY = 80
"""Steps between checkpoints."""
KILLED = 110
"""The step at which the first process is killed."""
WIDTH, HEADS, LAYERS = 96, 4, 3


class Block(nn.Module):
    """Attention to what came before, then a network of two layers; both beside a path that leaves all as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Characters as (batch, time) to the logits of the ones that follow, (batch, time, characters)."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.place(torch.arange(x.shape[1])))))


TEXT = "\n\n".join(topics[name] for name in sorted(topics))
CHARACTERS = sorted(set(TEXT))
DATA = torch.tensor([CHARACTERS.index(c) for c in TEXT])
TRAIN, HELD_OUT = DATA.split([int(0.9 * len(DATA)), len(DATA) - int(0.9 * len(DATA))])

torch.manual_seed(0)
network = Transformer(len(CHARACTERS))


def batch(step: int, data: Tensor = TRAIN) -> tuple[Tensor, Tensor]:
    """The same for a step whenever it is taken."""
    begins = torch.randint(len(data) - CONTEXT, (BATCH,), generator=torch.Generator().manual_seed(step))
    rows = torch.stack([data[i : i + CONTEXT + 1] for i in begins])
    return rows[:, :-1], rows[:, 1:]


def loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(functional_call(network, params, (x,)).flatten(0, 1), y.flatten())


def is_inner_matrix(params: dict[str, Tensor]) -> dict[str, bool]:
    """The matrices of the blocks; embeddings and the head look like matrices, but are tables."""
    return {name: p.dim() == 2 and name.startswith("blocks") for name, p in params.items()}


def optimizer() -> fx.GradientTransformation:
    muon, adamw = (fx.schedules.warmup_cosine(lr, STEPS // 10, STEPS) for lr in (0.02, 3e-3))
    return fx.chain(
        fx.clip_by_global_norm(1.0),
        fx.partition({True: fx.muon(lr=muon), False: fx.adamw(lr=adamw)}, is_inner_matrix),
        fx.ema_params(0.9),
    )


def train(folder: Path, begin: int, params: Any, state: Any, progress: Progress, name: str) -> tuple[Any, Any]:
    """Go on from a step to the end. Every loss is written down, and now and then a checkpoint."""
    tx = optimizer()
    task = progress.add_task(name, total=STEPS, completed=begin)
    with (folder / f"losses from {begin}.txt").open("w") as log:
        for step in range(begin, STEPS):
            if step % EVERY == 0:
                save(folder / "checkpoint.pt", step, params, state)
            grads, value = grad_and_value(loss)(params, *batch(step))
            params, state = fx.step(tx, grads, state, params, inplace=True)
            print(value.item().hex(), file=log, flush=True)
            progress.advance(task)
    return params, state


def save(path: Path, step: int, params: Any, state: Any) -> None:
    """Write the tensors in one go: a checkpoint is the old one until it is wholly the new one."""
    part = path.with_suffix(".part")
    torch.save({"step": step, "params": params, "state": state}, part)
    part.replace(path)


def load(path: Path) -> tuple[int, Any, Any]:
    """The step to go on from, the parameters and the state."""
    kept = torch.load(path)
    return kept["step"], kept["params"], kept["state"]


def losses(path: Path) -> list[float]:
    return [float.fromhex(line) for line in path.read_text().splitlines()]


@torch.no_grad()
def continued(params: Any, prompt: str, length: int = 200) -> str:
    """The prompt, and the characters that the network takes for likely to follow."""
    text, generator = [CHARACTERS.index(c) for c in prompt], torch.Generator().manual_seed(0)
    for _ in range(length):
        logits = functional_call(network, params, (torch.tensor([text[-CONTEXT:]]),))[0, -1]
        text.append(int(torch.multinomial((logits / 0.7).softmax(-1), 1, generator=generator)))
    return "".join(CHARACTERS[i] for i in text)


def killed(folder: Path) -> list[float]:
    """The losses of a process that trains from the beginning and does not get to the end."""
    process = subprocess.Popen([sys.executable, __file__, "--train", str(folder)])
    log = folder / "losses from 0.txt"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > KILLED):
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    if process.returncode is not None:
        raise SystemExit(f"training ended by itself, with code {process.returncode}")
    process.kill()
    process.wait()
    return losses(log)


def plot(path: Path, first: list[float], second: list[float], begin: int) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), constrained_layout=True)
    axes.plot(first, color="C0", label="first process, until it was killed")
    axes.plot(range(begin, STEPS), second, color="C1", linestyle=":", linewidth=2, label="second, from the checkpoint")
    axes.axvline(begin, color="0.6", linestyle="--", label="checkpoint")
    axes.set(title="A run that was killed and resumed", xlabel="step", ylabel="training loss (nats per character)")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(picture: Path) -> None:
    columns = TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as temporary, Progress(*columns) as progress:
        folder = Path(temporary)
        waiting = progress.add_task(f"until killed at step {KILLED}", total=None)
        first = killed(folder)
        progress.update(waiting, total=1, completed=1)
        begin, params, state = load(folder / "checkpoint.pt")
        params, state = train(folder, begin, params, state, progress, f"resumed from step {begin}")
        second = losses(folder / f"losses from {begin}.txt")
    again = len(first) - begin
    assert again > 0 and second[:again] == first[begin:], "the resumed run differs from the one that was killed"

    average = state[-1].averaged
    x, y = map(torch.cat, zip(*[batch(step, HELD_OUT) for step in range(10)]))
    table = Table(
        "parameters", "held-out loss, nats per character", title=f"{STEPS} steps, {len(CHARACTERS)} characters"
    )
    table.add_row("uniform guess", f"{math.log(len(CHARACTERS)):.3f}")
    table.add_row("as trained", f"{loss(params, x, y):.3f}")
    table.add_row("their average", f"{loss(average, x, y):.3f}")
    console = Console()
    console.print(table)
    console.print(f"{again} steps were taken twice, with the same losses")
    console.print(continued(average, "The class "), markup=False, highlight=False)
    plot(picture, first, second, begin)
    console.print(f"loss: {picture}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpt_char.png"), help="where the picture goes")
    parser.add_argument("--train", type=Path, help="only train, and leave checkpoints and losses in this folder")
    options = parser.parse_args()
    if options.train:
        start = {name: p.detach().clone() for name, p in network.named_parameters()}
        with Progress(disable=True) as quiet:
            train(options.train, 0, start, optimizer().init(start), quiet, "")
    else:
        main(options.out)
