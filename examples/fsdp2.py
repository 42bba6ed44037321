"""Training that is sharded over two processes, stopped in the middle, and gone on with in a single one.

Each of two processes holds half of every parameter and of AdamW's state (``fully_shard``), and computes on half of
every batch. In the middle of the training they write a checkpoint together, each its own part. A single process goes on
from it: it holds everything, and takes the halves of a batch one after the other. It must have the losses of the two
that went on as well, and end with their weights, to the last bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import optimfx.optim

STEPS, MIDDLE, BATCH = 200, 100, 128
HALVES = 2
"""Into so many parts a batch is cut, one for each of two processes."""


def load() -> list[Tensor]:
    """Pixels in [0, 1] as (images, 64), of the training and the test; and labels."""
    # Imported here, because every process imports this file, and has the data from the first.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    return train_test_split(pixels, labels, random_state=0, stratify=labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


class Training(NamedTuple):
    """The arguments of the processes of one training."""

    world: int
    begin: int
    folder: Path
    x: Tensor
    y: Tensor
    losses: Tensor  # in shared memory: it is filled as they go


def process(rank: int, training: Training) -> None:
    """One of them; they find each other by a file."""
    torch.set_num_threads(1)
    meeting = f"file://{training.folder}/of {training.world}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=training.world)
    try:
        train(rank, *training)
        dist.barrier()  # who left before the others would take the connection from them
    finally:
        dist.destroy_process_group()


def train(rank: int, world: int, begin: int, folder: Path, x: Tensor, y: Tensor, losses: Tensor) -> None:
    """Train from a step to the end; from the checkpoint in the middle, or writing it."""
    model = fully_shard(network(), mesh=init_device_mesh("cpu", (world,)))
    # torch's own kernel, the default, rounds the last elements of a tensor otherwise than the rest, and shards end
    # elsewhere: it would make a difference of 1e-8.
    optimizer = optimfx.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)
    for step in range(begin, STEPS):
        if step == MIDDLE:
            checkpoint(folder / "checkpoint", model, optimizer, read=begin == MIDDLE)
        rows = torch.randint(len(x), (BATCH,), generator=torch.Generator().manual_seed(step))
        total = torch.zeros(())
        for half in rows.chunk(HALVES)[rank::world]:
            # fully_shard takes the mean over the processes; to halve and to double rounds nothing.
            loss = cross_entropy(model(x[half]), y[half]) * (world / HALVES)
            loss.backward()
            total += loss.detach() / world
        dist.all_reduce(total)
        losses[step] = total
        optimizer.step()
        optimizer.zero_grad()
    held = sum(p.to_local().numel() for p in model.parameters())
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save((held, whole), folder / f"weights of {world}")


def checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, read: bool) -> None:
    """Every process writes what it holds; or reads what it is to hold, by whichever processes it was written."""
    weights, state = get_state_dict(model, optimizer)
    both = {"model": weights, "optimizer": state}
    if read:
        dcp.load(both, checkpoint_id=path)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    else:
        dcp.save(both, checkpoint_id=path)


def run(training: Training, progress: Progress, name: str) -> tuple[int, dict[str, Tensor]]:
    """Train in new processes: how much each of them holds, and the weights at the end."""
    task = progress.add_task(name, total=STEPS)
    processes = mp.spawn(process, (training,), nprocs=training.world, join=False)
    while not processes.join(timeout=0.1):
        progress.update(task, completed=training.begin + int(training.losses.isfinite().sum()))
    progress.update(task, completed=STEPS)
    return torch.load(training.folder / f"weights of {training.world}")


def main() -> None:
    x, x_test, y, y_test = load()
    losses, again = torch.full((2, STEPS), torch.nan).share_memory_()
    columns = TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        half, weights = run(Training(2, 0, Path(folder), x, y, losses), progress, "two processes")
        full, resumed = run(Training(1, MIDDLE, Path(folder), x, y, again), progress, "one, resumed")

    assert torch.equal(losses[MIDDLE:], again[MIDDLE:]), "the losses of one process are not those of two"
    for name, weight in weights.items():
        assert torch.equal(weight, resumed[name]), f"{name} is not the same"

    model = network()
    table = Table("", "weights in each", f"loss at step {MIDDLE}", "at the end", "accuracy")
    table.title = f"Digits, {STEPS} steps of AdamW under fully_shard"
    for name, held, curve, end in ("two processes", half, losses, weights), ("one, resumed", full, again, resumed):
        model.load_state_dict(end)
        accuracy = (model(x_test).argmax(-1) == y_test).float().mean()
        table.add_row(name, f"{held:,}", f"{curve[MIDDLE]:.8f}", f"{curve[-1]:.8f}", f"{accuracy:.1%}")
    console = Console()
    console.print(table)
    console.print(f"{STEPS - MIDDLE} losses after the checkpoint and all weights are the same in both")


if __name__ == "__main__":
    main()
