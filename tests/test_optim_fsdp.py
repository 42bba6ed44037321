"""Two processes with fully_shard are one process: every class, and checkpoints when the number of processes changes."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import optimfx.optim as optim

NAMES = [name for name in optim.__all__ if name[0].isupper() and "Optimizer" not in name]
SHARDED = [name for name in NAMES if name not in ("LBFGS", "SparseAdam")]  # closures; sparse gradients: not sharded
STEPS = 4


def model():
    """Uneven shards: three rows on two processes."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6, bias=False), torch.nn.Tanh(), torch.nn.Linear(6, 3, bias=False), torch.nn.Tanh()
    )


def train(module, optimizer, steps, first=0):
    for step in range(first, first + steps):
        torch.manual_seed(step)
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def sharded(module, world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=init_device_mesh("cpu", (world,)))
    return module


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
    finally:
        dist.destroy_process_group()


def _differences(world, path):
    found = {}
    for name in SHARDED:
        whole, parts = model(), sharded(model(), world)
        train(whole, getattr(optim, name)(whole.parameters()), STEPS)
        train(parts, getattr(optim, name)(parts.parameters()), STEPS)
        pairs = zip(whole.parameters(), parts.parameters())
        found[name] = max(float((p - q.full_tensor()).detach().abs().max()) for p, q in pairs)
    if dist.get_rank() == 0:
        torch.save(found, path)


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    path = tmp_path_factory.mktemp("fsdp") / "differences"
    in_processes(_differences, 2, path)
    return torch.load(path)


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_is_one_process(name, differences):
    """To the rounding of norms that are added up in another order."""
    assert differences[name] <= 1e-6


def _save(world, path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    for name in SHARDED:
        parts = sharded(model(), world)
        optimizer = getattr(optim, name)(parts.parameters())
        train(parts, optimizer, STEPS)
        weights, state = get_state_dict(parts, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=str(path / name))


def _load(world, path, results):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    found = {}
    for name in SHARDED:
        whole, parts = model(), sharded(model(), world)
        reference = getattr(optim, name)(whole.parameters())
        train(whole, reference, STEPS)
        optimizer = getattr(optim, name)(parts.parameters())
        weights, state = get_state_dict(parts, optimizer)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=str(path / name))
        set_state_dict(parts, optimizer, model_state_dict=weights, optim_state_dict=state)
        train(whole, reference, 2, first=STEPS)
        train(parts, optimizer, 2, first=STEPS)
        pairs = zip(whole.parameters(), parts.parameters())
        found[name] = max(float((p - q.full_tensor()).detach().abs().max()) for p, q in pairs)
    if dist.get_rank() == 0:
        torch.save(found, results)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints")
    in_processes(_save, 2, path)
    in_processes(_load, 1, path, path / "results")
    return torch.load(path / "results")


@pytest.mark.parametrize("name", SHARDED)
def test_a_checkpoint_of_two_processes_goes_on_in_one(name, resumed):
    assert resumed[name] <= 1e-6
