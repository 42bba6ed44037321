"""A convolutional network trained as ever in torch, with one import changed; resumed, it trains as if not stopped.

Weights decay and biases do not (parameter groups); the rate warms up and falls (a scheduler); the loss is scaled for
half precision (a scaler); the gradients are clipped; and the weights are averaged. In the
middle everything is written to a file, from which another model, optimizer, scheduler, scaler and average go on: their
losses must be the same, to the last bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optimfx import optim

STEPS, BATCH, LR = 300, 64, 3e-3


def load() -> tuple[Tensor, Tensor]:
    """Images of shape (n, 1, 8, 8), and labels; the last 297 are for testing."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10)),
    )


class Training:
    """All that a run consists of, and that a checkpoint holds."""

    def __init__(self) -> None:
        self.model = network()
        weights = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": weights, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = optim.AdamW(groups, lr=LR)
        self.scheduler = optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=LR, total_steps=STEPS)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        self.average = optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.98), use_buffers=True
        )

    @property
    def parts(self) -> dict[str, Any]:
        return vars(self)

    def save(self, path: Path) -> None:
        torch.save({name: part.state_dict() for name, part in self.parts.items()}, path)

    def load(self, path: Path) -> None:
        states = torch.load(path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(states[name])

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(self.model(x), y)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.average.update_parameters(self.model)
        return loss.detach()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(-1) == y).float().mean().item()


def main() -> None:
    images, labels = load()
    x, y, x_test, y_test = images[:-297], labels[:-297], images[-297:], labels[-297:]
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(len(x), (BATCH,), generator=generator) for _ in range(STEPS)]
    begin = Training()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        for rows in batches[: STEPS // 2]:
            begin.step(x[rows], y[rows])
        begin.save(path)
        resumed = Training()
        resumed.load(path)
    losses = [[run.step(x[rows], y[rows]) for rows in batches[STEPS // 2 :]] for run in (begin, resumed)]
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1])), "a resumed run should be the same"
    console = Console()
    scores = {"as trained": begin.model, "the average": begin.average, "the average, resumed": resumed.average}
    for name, model in scores.items():
        console.print(f"{name}: {accuracy(model, x_test, y_test):.1%} of the test digits")
    assert accuracy(begin.average, x_test, y_test) >= 0.93
    console.print(f"{STEPS // 2} losses after the checkpoint are the same, to the last bit")


if __name__ == "__main__":
    main()
