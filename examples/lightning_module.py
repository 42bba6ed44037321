"""A LightningModule whose optimizer is a chain of pure transformations; resumed, it trains as if it had not stopped.

Clipping, Lion and an average of the parameters make one optimizer, whose learning rate and first beta a scheduler
drives. The Trainer writes a checkpoint in the middle, from which another one goes on with another module: its losses
must be the same, to the last bit. Needs ``pip install optimfx[clients,examples]``. Writes ``lightning_module.png``.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning
import matplotlib
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import optimfx as fx

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# What the Trainer says of accelerators that it does not find, and of services; of the checkpoints that it goes on from;
# and of torch's names that it uses.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty", UserWarning)
warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)

EPOCHS, MIDDLE, BATCH = 12, 6, 32

pixels, labels = load_digits(return_X_y=True)
pixels, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
pixels, held_out_pixels, labels, held_out_labels = train_test_split(pixels, labels, random_state=0, stratify=labels)


class Classifier(lightning.LightningModule):
    """The data of an epoch depend on the epoch alone, so that a resumed run sees the same."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.losses: list[float] = []
        self.lrs: list[float] = []

    def configure_optimizers(self) -> Any:
        tx = fx.chain(
            fx.clip_by_global_norm(1.0),
            fx.inject_hyperparams(fx.lion)(lr=1e-3, weight_decay=0.1),
            fx.ema_params(0.95),
        )
        optimizer = fx.optim.TransformOptimizer(self.network.named_parameters(), tx)
        steps = self.trainer.estimated_stepping_batches
        scheduler = fx.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Any]:
        # The Trainer tells this sampler the epoch, on which alone the order depends.
        data = TensorDataset(pixels, labels)
        return DataLoader(data, BATCH, sampler=DistributedSampler(data, num_replicas=1, rank=0), drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(held_out_pixels, held_out_labels), len(held_out_labels))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = batch
        loss = cross_entropy(self.network(x), y)
        self.losses.append(loss.item())
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        x, y = batch
        optimizer = self.trainer.optimizers[0]
        average = dict(zip(optimizer.param_groups[0]["param_names"], optimizer.state_of()[-1].averaged))
        self.log("accuracy", (self.network(x).argmax(-1) == y).float().mean(), prog_bar=True)
        logits = functional_call(self.network, average, (x,))
        self.log("of the average", (logits.argmax(-1) == y).float().mean(), prog_bar=True)


def train(folder: Path, checkpoint: Path | None = None) -> Classifier:
    """A module trained from the beginning, or from a checkpoint on."""
    torch.manual_seed(0)
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[ModelCheckpoint(folder, "{epoch}", every_n_epochs=MIDDLE, save_top_k=-1)],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    return module


def plot(path: Path, whole: Classifier, resumed: Classifier) -> None:
    begin = len(whole.losses) - len(resumed.losses)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axes, first, second in ((left, whole.losses, resumed.losses), (right, whole.lrs, resumed.lrs)):
        axes.plot(first, color="C0", label="not interrupted")
        axes.plot(range(begin, len(first)), second, color="C1", linestyle=":", linewidth=2.5, label="resumed")
        axes.axvline(begin, color="0.6", linestyle="--", label="checkpoint")
        axes.set(xlabel="step")
    left.set(title="Training loss", ylabel="cross entropy", yscale="log")
    right.set(title="Learning rate of Lion, by OneCycleLR")
    left.legend()
    figure.savefig(path, dpi=120)


def main(picture: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder))
        resumed = train(Path(folder), Path(folder) / f"epoch={MIDDLE - 1}.ckpt")

    half = len(whole.losses) // 2
    assert resumed.losses == whole.losses[half:], "the resumed run differs from the one that was not interrupted"
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), f"{name} is not the same"
    assert resumed.trainer.callback_metrics["of the average"] >= 0.95, "the average should classify 95 % of the digits"

    console = Console()
    table = Table("", "accuracy", "of the average", "last loss", title=f"Digits after {EPOCHS} epochs of Lion")
    for name, module in ("not interrupted", whole), (f"resumed after {MIDDLE} epochs", resumed):
        scores = module.trainer.callback_metrics
        table.add_row(
            name, *(f"{scores[key]:.1%}" for key in ("accuracy", "of the average")), f"{module.losses[-1]:.8f}"
        )
    console.print(table)
    console.print(f"{half} losses after the checkpoint and all weights are the same in both")
    plot(picture, whole, resumed)
    console.print(f"loss and learning rate: {picture}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("lightning_module.png"), help="where the picture goes")
    main(parser.parse_args().out)
