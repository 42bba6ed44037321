"""From torch.optim to optimfx.optim: one line changes, and nothing in what is trained.

The function ``train`` is code as it is written for torch: an optimizer, a scheduler, an average of the weights. It is
run with ``torch.optim`` and with ``optimfx.optim``, and the two must end in the same place, which is checked.
"""

from __future__ import annotations

from types import ModuleType

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits

import optimfx.optim

STEPS = 300


def train(optim: ModuleType, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network trained on the digits, and the average of its weights on the way."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)
    average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.98))
    for _ in track(range(STEPS), description=optim.__name__):
        batch = torch.randint(len(pixels), (128,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
    return model, average


def main() -> None:
    digits = load_digits()
    pixels, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    results = {optim.__name__: train(optim, pixels, labels) for optim in (torch.optim, optimfx.optim)}

    table = Table("", "accuracy", "of the average", title=f"Digits after {STEPS} steps")
    for name, networks in results.items():
        table.add_row(name, *(f"{(n(pixels).argmax(1) == labels).float().mean().item():.1%}" for n in networks))
    Console().print(table)

    theirs, ours = ([*model.parameters(), *average.parameters()] for model, average in results.values())
    difference = max((p - q).abs().max().item() for p, q in zip(theirs, ours))
    print(f"largest difference of a weight: {difference:g}")
    assert difference < 1e-5


if __name__ == "__main__":
    main()
