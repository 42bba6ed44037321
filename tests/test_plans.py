"""What is found out of leaves once holds for leaves like them, and for no others."""

import copy
import gc
import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor

import optree
import pytest
import torch
from trees import assert_equal, clone, random_like

import optimfx as fx
from optimfx import optim
from optimfx.execution import tree_plan
from optimfx.execution.planning import Guard

SIZE = 65


def tensors(count=SIZE):
    return [torch.randn(2, 3) for _ in range(count)]


def test_tensors_that_are_alike_are_admitted():
    guard = Guard(tensors())
    assert guard.admits(tensors())
    assert not guard.admits(tensors(SIZE - 1))


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
        lambda: 0.5,
    ],
    ids=["shape", "strides", "dtype", "device", "type", "requires grad", "layout", "negative", "none", "number"],
)
def test_one_that_differs_is_seen(make):
    guard = Guard(tensors())
    others = tensors()
    others[SIZE // 2] = make()
    assert not guard.admits(others)


def test_one_that_stands_twice_is_seen():
    once, twice = tensors(3), tensors(3)
    twice[2] = twice[0]
    assert not Guard(once).admits(twice) and not Guard(twice).admits(once)
    again = tensors(3)
    again[2] = again[0]
    other = tensors(3)
    other[2] = other[1]
    assert Guard(twice).admits(again) and not Guard(twice).admits(other)


@pytest.fixture
def planned(monkeypatch):
    """The plans that have been made."""
    made = []
    make = tree_plan.TreePlan.__init__
    monkeypatch.setattr(tree_plan, "_plans", type(tree_plan._plans)())
    monkeypatch.setattr(tree_plan.TreePlan, "__init__", lambda self, *a, **k: made.append(self) or make(self, *a, **k))
    return made


def some_params():
    return {"w": torch.randn(3, 2), "b": torch.randn(2), "big": torch.randn(20_000)}


def through_a_file(state, tmp_path):
    torch.save(state, tmp_path / "state")
    return torch.load(tmp_path / "state", weights_only=False)


MOVES = {
    "as it is": lambda state, path: state,
    "cloned": lambda state, path: optree.tree_map(torch.clone, state),
    "copied": lambda state, path: copy.deepcopy(state),
    "there and back": lambda state, path: optree.tree_map(lambda t: t.double().to(t.dtype), state),
    "stacked and cut": lambda state, path: optree.tree_map(lambda t: torch.stack([t, t])[1], state),
    "loaded": through_a_file,
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
@pytest.mark.parametrize("inplace", [False, True], ids=["out of place", "in place"])
@pytest.mark.parametrize(
    "tx",
    [fx.adamw(), fx.nadam(), fx.sgd(momentum=0.9), fx.chain(fx.clip_by_global_norm(1.0), fx.lion(), fx.ema(0.9))],
    ids=lambda tx: repr(tx)[:20],
)
def test_a_state_is_plain_data(tx, inplace, move, planned, tmp_path):
    """Moved leaf by leaf, it gives the same numbers, by the same plan as one that ``init`` returned."""
    params, twins = some_params(), None
    twins = clone(params)
    state, other = tx.init(params), tx.init(params)
    for _ in range(4):
        grads = random_like(params)
        params, state = fx.step(tx, clone(grads), state, params, inplace=inplace)
        other = move(other, tmp_path)
        twins, other = fx.step(tx, clone(grads), other, twins, inplace=inplace)
        assert_equal((twins, other), (params, state))
    assert len(planned) == 1


def test_a_count_goes_on_where_its_dtype_cannot():
    params = {"w": torch.ones(1), "b": torch.ones(1)}
    tx = fx.adam()
    for dtype, begin in ((torch.bfloat16, 300), (torch.float16, 2048), (torch.float32, 2**24)):
        for inplace in (False, True):
            step = {name: torch.tensor(float(begin), dtype=dtype) for name in params}
            state = tx.init(params)._replace(step=step)
            for _ in range(3):
                _, state = fx.step(tx, clone(params), state, clone(params), inplace=inplace)
            assert state.step == {"w": begin + 3, "b": begin + 3}


@pytest.mark.parametrize("executor", ["eager", "foreach", "blocked"])
@pytest.mark.parametrize("tx", [fx.adamw(weight_decay=0.1), fx.sgd(momentum=0.9)], ids=["adamw", "sgd"])
def test_one_gradient_for_two_leaves(tx, executor):
    """As that of a sum is: written over for one, it would be another's for the other."""
    params = {"base": torch.randn(3, 3), "delta": torch.zeros(3, 3), "other": torch.randn(2)}
    results = []
    for inplace in (False, True):
        shared = torch.ones(3, 3)
        grads = {"base": shared, "delta": shared.view(3, 3), "other": torch.ones(2)}
        with fx.execution.use(executor):
            results.append(tx.update(grads, tx.init(params), clone(params), inplace=inplace))
    assert_equal(*results)


def test_one_gradient_for_two_leaves_of_a_chain():
    mask = {"base": True, "delta": False}
    tx = fx.chain(fx.masked(fx.add_decayed_weights(0.1), mask), fx.sgd(lr=0.1))
    results = []
    for inplace in (False, True):
        params = {"base": torch.ones(3, 3), "delta": torch.zeros(3, 3)}
        shared = torch.ones(3, 3)
        results.append(fx.step(tx, dict.fromkeys(params, shared), tx.init(params), params, inplace=inplace))
    assert_equal(*results)


def test_one_parameter_under_two_keys():
    """Out of place, each key has a parameter of its own; in place, a step would step it twice."""
    params = {"embed": torch.ones(3), "bias": torch.ones(2)}
    params["head"] = params["embed"]
    grads = random_like(params)
    tx = fx.sgd(lr=0.1)
    stepped, _ = fx.step(tx, grads, tx.init(params), params)
    assert_equal(stepped, {name: 1 - 0.1 * grad for name, grad in grads.items()})
    with pytest.raises(ValueError, match=r"params\['head'\] and params\['embed'\] are one tensor"):
        fx.step(tx, grads, tx.init(params), params, inplace=True)
    assert_equal(params["embed"], torch.ones(3))


def test_only_so_many_plans_are_kept(planned):
    tx = fx.sgd()
    for size in range(tree_plan.KEPT + 9):
        params = [torch.randn(size)]
        fx.step(tx, params, tx.init(params), params)
    assert len(planned) == tree_plan.KEPT + 9
    assert len(tree_plan._plans) == tree_plan.KEPT


@pytest.mark.parametrize("tx", [fx.adamw(), fx.rmsprop(), fx.muon()], ids=["adamw", "rmsprop", "muon"])
def test_a_plan_keeps_no_tensor_alive(tx):
    gc.collect()
    gc.disable()
    try:
        params = {"w": torch.randn(3, 2), "big": torch.randn(200, 100)}
        state = tx.init(params)
        for inplace in (False, True):
            params, state = fx.step(tx, random_like(params), state, params, inplace=inplace)
        held = [weakref.ref(leaf) for leaf in optree.tree_leaves((params, state))]
        del params, state
        assert not [ref for ref in held if ref() is not None]
    finally:
        gc.enable()


def test_threads_step_by_one_plan():
    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        params = {name: torch.randn(shape, generator=generator) for name, shape in {"w": (30, 20), "b": (20,)}.items()}
        tx = fx.chain(fx.clip_by_global_norm(1.0), fx.rmsprop(lr=0.1))
        state = tx.init(params)
        for _ in range(50):
            grads = {name: p.sin() for name, p in params.items()}
            params, state = fx.step(tx, grads, state, params, inplace=True)
        return params

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(16)))
    assert_equal(found, [run(seed) for seed in range(16)])


@pytest.mark.parametrize("first, second", [*itertools.permutations(["inference", "no grad", "grad", "float64"], 2)])
def test_modes_and_default_dtypes_between_steps(first, second):
    """A plan that was made in one mode serves in another, or another is made."""
    modes = {
        "inference": torch.inference_mode,
        "no grad": torch.no_grad,
        "grad": torch.enable_grad,
    }

    def run(*order):
        torch.manual_seed(0)
        params = some_params()
        tx = fx.rmsprop(lr=0.1)
        state = tx.init(params)
        for mode in order:
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64 if mode == "float64" else before)
            try:
                with modes.get(mode, torch.no_grad)():
                    params, state = fx.step(tx, random_like(params), clone(state), clone(params))
            finally:
                torch.set_default_dtype(before)
        return clone((params, state))

    torch.manual_seed(0)
    assert_equal(run(first, second, first), run("no grad", "no grad", "no grad"))


def test_a_hyperparameter_that_is_edited_between_steps():
    """Numbers, flags and terms that are switched on and off, in groups that are stepped together."""
    edits = [
        {"lr": 0.2},
        {"momentum": 0.9},
        {"maximize": True},
        {"weight_decay": 0.1},
        {"momentum": 0.0},
        {"nesterov": False},
    ]
    trees = []
    for package in (optim, torch.optim):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3)) for _ in range(4)]
        optimizer = package.SGD([{"params": [p]} for p in params], lr=0.1, foreach=False)
        for i, edit in enumerate([{}, *edits, {}]):
            optimizer.param_groups[i % 4].update(edit)
            for p in params:
                p.grad = torch.randn(3)
            optimizer.step()
        trees.append([p.detach() for p in params])
    assert_equal(*trees)


def test_a_parameter_that_changes_its_dtype_between_steps():
    """As ``module.double()`` does, which keeps the parameters and exchanges their data."""
    trees = []
    for package in (optim, torch.optim):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3)) for _ in range(SIZE)]
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
    tx, params = fx.sgd(lr=1.0), tensors()
    for _ in range(2):
        params, _ = fx.step(tx, [torch.ones(2, 3).to_sparse()] * SIZE, tx.init(params), params)
