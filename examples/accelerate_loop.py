"""A plain loop under Accelerate, which steps once in four batches; resumed, it trains as if it had not stopped.

``Accelerator.prepare`` takes model, optimizer, loader and scheduler; the optimizer is a class of ``optimfx.optim``, of
an algorithm that torch does not have. In the middle ``save_state`` writes everything down, random numbers too, from
where ``load_state`` lets another model and another optimizer go on: their losses must be the same, to the last bit.
Needs ``pip install optimfx[clients,examples]``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import optimfx.optim

EPOCHS, MIDDLE, BATCH, SUMMED = 16, 8, 32, 4


class Result(NamedTuple):
    """The results of a training: the loss of every batch, the steps that were taken, and the model."""

    losses: list[float]
    steps: int
    model: nn.Module


def load() -> list[Tensor]:
    """Pixels in [0, 1] as (images, 64), of the training and the test; and labels."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    return train_test_split(pixels, labels, random_state=0, stratify=labels)


def train(begin: int, folder: Path, progress: Progress, name: str) -> Result:
    """Train from an epoch to the end; from the checkpoint in the middle, or writing it."""
    torch.manual_seed(begin)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=SUMMED)
    x, _, y, _ = load()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    optimizer = optimfx.optim.Adan(model.parameters(), lr=2e-2, weight_decay=0.02)
    loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=True)
    # The last batches of an epoch make a step, even if there are fewer.
    steps = EPOCHS * -(-len(loader) // SUMMED)
    scheduler = optimfx.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=steps)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    losses, taken = [], 0
    task = progress.add_task(name, total=EPOCHS * len(loader), completed=begin * len(loader))
    for epoch in range(begin, EPOCHS):
        if epoch == MIDDLE:
            accelerator.load_state(folder) if begin == MIDDLE else accelerator.save_state(folder)
        for images, digits in loader:
            with accelerator.accumulate(model):
                loss = cross_entropy(model(images), digits)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    taken += 1
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            progress.advance(task)
    return Result(losses, taken, accelerator.unwrap_model(model).eval())


def main() -> None:
    columns = TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    begins = {"not interrupted": 0, f"resumed after {MIDDLE} epochs": MIDDLE}
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        results = {name: train(begin, Path(folder), progress, name) for name, begin in begins.items()}

    whole, resumed = results.values()
    half = len(whole.losses) // 2
    assert resumed.losses == whole.losses[half:], "the resumed run differs from the one that was not interrupted"
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), f"{name} is not the same"

    _, x, _, y = load()
    table = Table("", "batches", "steps", "last loss", "test accuracy", title=f"Digits, {EPOCHS} epochs of Adan")
    for name, (losses, steps, model) in results.items():
        accuracy = (model(x).argmax(-1) == y).float().mean()
        assert accuracy >= 0.95, "the network should classify 95 % of the test digits"
        table.add_row(name, str(len(losses)), str(steps), f"{losses[-1]:.8f}", f"{accuracy:.1%}")
    console = Console()
    console.print(table)
    console.print(f"{half} losses after the checkpoint and all weights are the same in both")


if __name__ == "__main__":
    main()
