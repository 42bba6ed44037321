"""Small leaves that lie end to end in memory, and are stepped as the one span that they are."""

import copy
from itertools import accumulate

import numpy
import pytest
import torch

import optimfx as fx
from optimfx import optim
from optimfx.execution.memory.packing import SMALL, end_to_end, pack_small

SHAPES = [(3, 2), (), (0,), (5,), (1, 4)]


def offsets(tensors):
    return [0, *accumulate(t.numel() for t in tensors)]


def test_packed_tensors_are_one_view():
    tensors = [torch.randn(shape) for shape in SHAPES if shape != (0,)]
    moved = pack_small(tensors)
    assert all(torch.equal(a, b) and a.shape == b.shape for a, b in zip(moved, tensors))
    assert torch.equal(end_to_end(moved, offsets(moved)), torch.cat([t.flatten() for t in tensors]))
    assert end_to_end(tensors, offsets(tensors)) is None
    versions = [t._version for t in moved]
    moved[0].mul_(2)  # autograd counts the writes to each by itself
    assert [t._version for t in moved[1:]] == versions[1:]


def test_packing_leaves_alone_what_may_not_move():
    class Own(torch.Tensor):
        pass

    stay = [
        torch.randn(SMALL + 1),
        torch.randn(3, 2).t(),
        torch.randn(3, requires_grad=True),
        torch.eye(2).to_sparse(),
        torch.randn(2).as_subclass(Own),
        None,
    ]
    moved = pack_small([torch.zeros(2), *stay, torch.ones(1)])
    assert all(a is b for a, b in zip(moved[1:-1], stay))
    assert torch.equal(end_to_end([moved[0], moved[-1]], [0, 2, 3]), torch.tensor([0.0, 0.0, 1.0]))


def moved_away(parts):
    return [parts[0], parts[1].clone(), parts[2]]


def swapped(parts):
    return [parts[0], parts[2], parts[1]]


def transposed(parts):
    return [parts[0], parts[1].t(), parts[2]]


def neighbours_by_chance(parts):
    """Adjacent in memory, each in a storage of its own."""
    memory = numpy.zeros(12, dtype=numpy.float32)
    return [torch.from_numpy(memory[4 * i : 4 * i + 4]).view(2, 2) for i in range(3)]


@pytest.mark.parametrize("change", [moved_away, swapped, transposed, neighbours_by_chance])
def test_tensors_with_gaps_are_not_one_view(change):
    parts = pack_small([torch.randn(2, 2) for _ in range(3)])
    assert end_to_end(parts, [0, 4, 8, 12]) is not None
    assert end_to_end(change(parts), [0, 4, 8, 12]) is None


def as_pure(params):
    state = fx.adam().init([p.detach() for p in params])
    return [state.exp_avg, state.exp_avg_sq]


def as_class(params):
    optimizer = optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return columns(optimizer)


def as_loaded(params):
    optimizer = torch.optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    ours = optim.Adam(params)
    ours.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return columns(ours)


def columns(optimizer):
    states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
    return [[state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize("begin", [as_pure, as_class, as_loaded])
def test_a_state_lies_end_to_end(begin):
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES if shape != (0,)]
    assert all(end_to_end(column, offsets(column)) is not None for column in begin(params))


def test_new_slots_lie_end_to_end_and_results_in_memory_of_their_own():
    """Whoever keeps or saves one parameter keeps no other; and what is transposed stays so."""
    tx, params = fx.adamw(), {str(i): torch.randn(4, 3) for i in range(3)}
    params["transposed"] = torch.randn(3, 4).t()
    state = tx.init(params)
    state = state._replace(exp_avg={**state.exp_avg, "transposed": torch.zeros(3, 4).t()})
    for _ in range(2):
        params, state = fx.step(tx, {name: torch.randn(4, 3) for name in params}, state, params)
    assert all(p.untyped_storage().nbytes() == p.numel() * p.element_size() for p in params.values())
    squares = list(state.exp_avg_sq.values())[:3]
    assert end_to_end(squares, offsets(squares)) is not None
    assert params["transposed"].stride() == state.exp_avg["transposed"].stride() == (1, 4)
