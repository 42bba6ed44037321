"""Functions that run in several processes, which talk to each other."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(work, world, *args):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_entered, (world, port, work, *args), nprocs=world)


def _entered(rank, world, port, work, *args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(world, *args)
        dist.barrier()  # one that leaves early aborts now and then
    finally:
        dist.destroy_process_group()
