"""What is found of many leaves is remembered for leaves like them, and for no others."""

import pytest
import torch

import optimfx as fx
from optimfx import optim
from optimfx.execution import known
from optimfx.execution.known import MANY, recognized
from optimfx.execution.leaves import Leaves

LEAVES = MANY + 1


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(known, "_known", {})


def columns(count=LEAVES):
    return [torch.randn(2, 3) for _ in range(count)]


def leaves(params=None, grads=None, slots=None):
    return Leaves(params or columns(), grads or columns(), slots or [columns(), [None] * LEAVES])


def asked(of):
    """Whether one has to look at these leaves."""
    looks = []
    of.known(looks.append)
    return bool(looks)


def look(of):
    return "seen"


def remembers(of):
    found = recognized(of).found
    return found is not None and look in found


def test_like_leaves_are_looked_at_once():
    assert recognized(leaves()).known(look) == "seen"
    assert remembers(leaves())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(3, 2),
        lambda: torch.randn(3, 2).t(),
        lambda: torch.randn(2, 3, dtype=torch.float64),
        lambda: torch.randn(2, 3, device="meta"),
        lambda: torch.nn.Parameter(torch.randn(2, 3)),
        lambda: torch.randn(2, 3, requires_grad=True),
        lambda: torch.randn(2, 3).to_sparse(),
        lambda: torch._neg_view(torch.randn(2, 3)),
        lambda: None,
    ],
    ids=["shape", "strides", "dtype", "device", "type", "requires grad", "layout", "negative", "none"],
)
@pytest.mark.parametrize("column", range(3))
def test_one_leaf_that_differs_is_seen(make, column):
    recognized(leaves()).known(look)
    other = [columns(), columns(), columns()]
    other[column][LEAVES // 2] = make()
    assert not remembers(leaves(other[0], other[1], [other[2], [None] * LEAVES]))


def test_a_slot_more_is_seen():
    recognized(leaves()).known(look)
    assert not remembers(leaves(slots=[columns(), columns()]))
    assert not remembers(leaves(slots=[[None] * LEAVES, columns()]))


def test_few_leaves_are_looked_at_each_time():
    few = Leaves(columns(3), columns(3), [])
    assert recognized(few) is few
    assert [few.known(look), asked(few), asked(few)] == ["seen", True, True]


def test_nothing_is_remembered_of_what_a_tracer_holds():
    seen = []

    def step(x):
        seen.append(recognized(Leaves([x] * LEAVES, [x] * LEAVES, [])).found)
        return x

    torch.vmap(step)(torch.randn(2))
    assert seen == [None]


def test_only_so_many_kinds_are_remembered():
    for size in range(2 * known.KEPT):
        column = [torch.randn(size)] * LEAVES
        recognized(Leaves(column, column, []))
        assert 0 < len(known._known) <= known.KEPT


def test_a_parameter_that_changes_its_dtype_between_steps():
    """As ``module.double()`` does, which keeps the parameters and exchanges their data."""
    trees = []
    for package in (optim, torch.optim):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3)) for _ in range(LEAVES)]
        optimizer = package.SGD(params, lr=0.1, foreach=False)
        for dtype in (torch.float32, torch.float32, torch.float64):
            params[3].data = params[3].data.to(dtype)
            for p in params:
                p.grad = torch.randn(3).to(p.dtype)
            optimizer.step()
        trees.append([p.detach() for p in params])
    for ours, theirs in zip(*trees, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_sparse_gradients_of_many_leaves():
    tx, params = fx.sgd(lr=1.0), columns()
    for _ in range(2):
        params, _ = fx.step(tx, [torch.ones(2, 3).to_sparse()] * LEAVES, tx.init(params), params)
