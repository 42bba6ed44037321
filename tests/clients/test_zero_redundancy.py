"""torch's ZeroRedundancyOptimizer shards the state of our classes over processes."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from classes import CLASSES
from processes import in_processes
from twins import DENSE, assert_same, options, trained

import optimfx as fx
import optimfx.optim as optim

OWN = fx.chain(fx.monitor(), fx.inject_hyperparams(fx.lion)(lr=0.02), fx.kahan())
CLIENTS = {info.optim_cls.__name__: (CLASSES[info.optim_cls], {"lr": 0.02, **options(info)}) for info in DENSE}
# Arguments of the constructor go into the groups, and with them from process to process: not a transformation.
CLIENTS["TransformOptimizer"] = partial(optim.TransformOptimizer, tx=OWN), {}
WORLD = 2
STEPS = 3


def model():
    """A model of matrices alone, which every class can step."""
    torch.manual_seed(0)
    sizes = [4, 5, 3, 5, 2]
    return torch.nn.Sequential(*[torch.nn.Linear(m, n, bias=False) for m, n in zip(sizes, sizes[1:])])


def groups(module):
    """Two, of which one has a rate of its own."""
    *first, last = module.parameters()
    return [{"params": first}, {"params": [last], "lr": 0.01}]


def train(module, optimizer, ranks, steps):
    """On the mean of the losses of these ranks, with a schedule."""
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for step in steps:
        optimizer.zero_grad()
        for rank in ranks:
            torch.manual_seed(WORLD * step + rank)
            (module(torch.randn(8, 4)).square().mean() / len(ranks)).backward()
        optimizer.step()
        scheduler.step()


def alone(name, module):
    cls, kwargs = CLIENTS[name]
    return cls(groups(module), **kwargs)


def sharded(name, weights):
    """A process has all parameters, and the state of some."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    module, (cls, kwargs) = model(), CLIENTS[name]
    module.load_state_dict(weights)
    return DistributedDataParallel(module), ZeroRedundancyOptimizer(groups(module), optimizer_class=cls, **kwargs)


def _in_parts(world, path):
    """A run of every class, and the second half of it with a new optimizer and the consolidated state of the first."""
    found = {}
    for name in CLIENTS:
        half, optimizer = sharded(name, model().state_dict())
        train(half, optimizer, [dist.get_rank()], range(STEPS))
        local = len(optimizer.optim.state)
        optimizer.consolidate_state_dict(to=0)
        states = [optimizer.state_dict() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(states)
        kept = copy.deepcopy(states[0])
        whole, optimizer = sharded(name, half.module.state_dict())
        optimizer.load_state_dict(states[0])
        train(whole, optimizer, [dist.get_rank()], range(STEPS, 2 * STEPS))
        found[name] = half.module.state_dict(), kept, local, whole.module.state_dict()
    if dist.get_rank() == 0:
        torch.save(found, path)


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("zero") / "runs"
    in_processes(_in_parts, WORLD, path)
    return torch.load(path)


@pytest.mark.parametrize("name", CLIENTS)
def test_zero_redundancy_equals_one_process(name, in_parts):
    """On the mean of the gradients, bit for bit, as halves are exact: parameters, state, and where it leads to."""
    half, state, local, whole = in_parts[name]
    module = model()
    optimizer = alone(name, module)
    train(module, optimizer, range(WORLD), range(STEPS))
    assert local == len(optimizer.state) / WORLD
    assert_same(list(half.values()), trained(module, optimizer)[0])
    assert_same({**state, "param_groups": None}, {**optimizer.state_dict(), "param_groups": None})
    train(module, optimizer, range(WORLD), range(STEPS, 2 * STEPS))
    assert_same(list(whole.values()), trained(module, optimizer)[0])
