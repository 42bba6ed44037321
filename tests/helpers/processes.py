"""Functions that run in several processes, which talk to each other."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(work, world, *args):
    # A file, as a free port may be another's by the time that it is used.
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_entered, (world, (Path(folder) / "store").as_uri(), work, *args), nprocs=world)


def _entered(rank, world, store, work, *args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    try:
        work(world, *args)
        dist.barrier()  # one that leaves early aborts now and then
    finally:
        dist.destroy_process_group()
