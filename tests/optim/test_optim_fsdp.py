"""Two processes with fully_shard are one process: classes, transformations, and checkpoints for another number."""

import pytest
import torch
import torch.distributed as dist
from processes import in_processes

import optimfx as fx
import optimfx.optim as optim

NAMES = [name for name in optim.__all__ if name[0].isupper() and "Optimizer" not in name]
# Closures, sparse gradients, whole matrices.
NOT_SHARDED = ("LBFGS", "MoMo", "MoMoAdam", "PolyakSGD", "SparseAdam", "Dion", "SOAP", "Shampoo", "Kron")
CLASSES = [name for name in NAMES if name not in NOT_SHARDED]
TRANSFORMS = {
    "the norm of all": fx.chain(fx.clip_by_global_norm(0.1), fx.adamw(lr=0.1)),
    "injected": fx.inject_hyperparams(fx.lion)(lr=0.01),
    "norms of leaves": fx.lamb(lr=0.1),
    "sums over all": fx.prodigy(estim_lr0=0.1),
    "a dot product": fx.mechanize(fx.adam(1.0), s_init=1e-2),
    "a trust ratio": fx.chain(fx.scale_by_adam(), fx.scale_by_trust_ratio(), fx.scale_by_lr(0.1)),
    "averages": fx.chain(fx.ema(0.9), fx.monitor(), fx.scale_by_lr(0.1), fx.ema_params(0.9)),
    "a partition": fx.partition({"muon": fx.muon(lr=0.1, ns_dtype=None), "adan": fx.adan(lr=0.1)}, ["muon", "adan"]),
}
SHARDED = [*CLASSES, *TRANSFORMS]
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


def made(name, module):
    if name in TRANSFORMS:
        return optim.TransformOptimizer(module.parameters(), TRANSFORMS[name])
    return getattr(optim, name)(module.parameters())


def _differences(world, path):
    found = {}
    for name in SHARDED:
        whole, parts = model(), sharded(model(), world)
        train(whole, made(name, whole), STEPS)
        train(parts, made(name, parts), STEPS)
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
def test_fsdp_equals_one_process(name, differences):
    """To the rounding of norms that are added up in another order."""
    assert differences[name] <= 1e-6


def _out_of_place(world, path):
    """Steps of pure functions, on the gradients of the first."""
    found = {}
    for name, tx in TRANSFORMS.items():
        ends = []
        for module in (model(), sharded(model(), world)):
            train(module, torch.optim.SGD(module.parameters(), lr=0.0), 1)
            params, grads = list(module.parameters()), [p.grad for p in module.parameters()]
            with torch.no_grad():
                state = tx.init(params)
                for _ in range(STEPS):
                    params, state = fx.step(tx, grads, state, params)
            ends.append(params)
        found[name] = max(float((p - q.full_tensor()).detach().abs().max()) for p, q in zip(*ends))
    if dist.get_rank() == 0:
        torch.save(found, path)


def test_pure_steps_of_sharded_parameters(tmp_path):
    in_processes(_out_of_place, 2, tmp_path / "differences")
    differences = torch.load(tmp_path / "differences")
    assert set(differences) == set(TRANSFORMS) and max(differences.values()) <= 1e-6


def _save(world, path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    for name in SHARDED:
        parts = sharded(model(), world)
        optimizer = made(name, parts)
        train(parts, optimizer, STEPS)
        weights, state = get_state_dict(parts, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=str(path / name))


def _load(world, path, results):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    found = {}
    for name in SHARDED:
        whole, parts = model(), sharded(model(), world)
        reference = made(name, whole)
        train(whole, reference, STEPS)
        optimizer = made(name, parts)
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
