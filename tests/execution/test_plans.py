"""Plans are reused for leaves of the same metadata, and for no others."""

import copy
import gc
import importlib
import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optree
import pytest
import torch
from trees import assert_equal, clone, random_like

import optimfx as fx
from optimfx import optim
from optimfx.execution.memory.guard import Guard

run = importlib.import_module("optimfx.execution.engine")  # the package has a function of this name
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
def test_the_guard_sees_one_changed_leaf(make):
    guard = Guard(tensors())
    others = tensors()
    others[SIZE // 2] = make()
    assert not guard.admits(others)


def test_the_guard_sees_a_leaf_given_twice():
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
    make = run.TreePlan.__init__
    monkeypatch.setattr(run, "_plans", type(run._plans)())
    monkeypatch.setattr(run.TreePlan, "__init__", lambda self, *a, **k: made.append(self) or make(self, *a, **k))
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


def test_a_count_that_several_leaves_hold_is_not_written():
    """It may be held elsewhere too: here by the state of another tree, to which a leaf has gone."""
    params = {"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}
    tx, shared = fx.nadam(), torch.tensor(2.0)
    whole = tx.init(params)._replace(step=dict.fromkeys(params, shared))

    def part(tree, *names):
        return {name: tree[name] for name in names}

    state, other = (type(whole)(*[part(field, *names) for field in whole]) for names in (("a", "b"), ("c",)))
    mine = part(params, "a", "b")
    for _ in range(2):
        mine, state = fx.step(tx, random_like(mine), state, mine, inplace=True)
    assert state.step == {"a": 4, "b": 4} and other.step == {"c": 2}


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


def decayed(grads, params):
    tx = fx.add_decayed_weights(0.1)
    return tx.update(grads, tx.init(params), params, inplace=True)[0]


@pytest.mark.parametrize("make", [lambda x: {"a": x, "b": x}, lambda x: dict.fromkeys("ab", x[0].expand(2))])
@pytest.mark.parametrize("way", ["compile", "vmap", "partition under vmap", "partition compiled"])
def test_gradients_that_cannot_be_written_over_in_a_trace(way, make):
    """One for two leaves, or one whose elements share memory."""
    params = {"a": torch.ones(2), "b": torch.zeros(2)}
    tx = fx.partition({0: fx.add_decayed_weights(0.1), 1: fx.add_decayed_weights(0.2)}, {"a": 0, "b": 1})

    def update(x):
        if "partition" not in way:
            return decayed(make(x), params)
        return tx.update(make(x), tx.init(params), params, inplace=True)[0]

    expected = {"a": torch.full((2,), 3.1), "b": torch.full((2,), 3.0)}
    x = torch.full((2,), 3.0)
    if "vmap" in way:
        found = {name: grad[0] for name, grad in torch.vmap(update)(torch.stack([x, x])).items()}
    else:
        found = torch.compile(update, fullgraph=True, backend="eager")(x.clone())
    assert_equal(found, expected)


def test_numpys_numbers_are_numbers(planned):
    """A plan is not made for each value of it."""
    params = {"w": torch.ones(3), "b": torch.ones(2)}
    results = []
    for lr in (0.1, np.float64(0.1), lambda step: np.float32(0.1)):
        tx, stepped = fx.adamax(lr=lr), params
        state = tx.init(params)
        for _ in range(4):
            stepped, state = fx.step(tx, params, state, stepped)
        results.append(stepped)
        assert len(planned[-1].staged.only.one_pass.plans) == 1
    assert_equal(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


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


def test_one_tensor_under_two_keys_is_refused_in_a_compiled_step():
    tx = fx.sgd(lr=0.1)
    tied = torch.ones(3)
    params = {"embed": tied, "head": tied}
    compiled = torch.compile(
        lambda grads, params: fx.step(tx, grads, tx.init(params), params, inplace=True), backend="eager"
    )
    with pytest.raises(ValueError, match="are one tensor"):
        compiled({name: torch.ones(3) for name in params}, params)
    apart = {name: p.clone() for name, p in params.items()}
    compiled({name: torch.ones(3) for name in params}, apart)
    torch.testing.assert_close(apart["head"], torch.full((3,), 0.9))


def test_only_so_many_plans_are_kept(planned):
    tx = fx.sgd()
    for size in range(run.MAX_CACHED + 9):
        params = [torch.randn(size)]
        fx.step(tx, params, tx.init(params), params)
    assert len(planned) == run.MAX_CACHED + 9
    assert len(run._plans) == run.MAX_CACHED


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


@pytest.mark.parametrize("tx", [fx.sgd(0.5), fx.adamw(0.5)], ids=["sgd", "adamw"])
def test_a_step_that_autograd_records_after_one_that_it_does_not(tx):
    params, grads = [torch.ones(3, requires_grad=True)], [torch.ones(3)]
    state = tx.init(params)
    with torch.no_grad():
        (silent,), _ = fx.step(tx, grads, state, params)
    (recorded,), _ = fx.step(tx, grads, state, params)
    assert not silent.requires_grad and recorded.requires_grad
    assert_equal(recorded.detach(), silent)
    with torch.no_grad():
        assert not fx.step(tx, grads, state, params)[0][0].requires_grad


@pytest.mark.parametrize("make", [fx.rmsprop, fx.adam, fx.lion], ids=lambda make: make.__name__)
def test_the_results_of_a_step_stay_as_they_are(make):
    """Small leaves are computed in memory that the next step takes again."""
    tx, params = make(), [torch.randn(5) for _ in range(4)]
    state = tx.init(params)
    for _ in range(3):
        results = fx.step(tx, random_like(params), state, params)
        kept = clone(results)
        fx.step(tx, random_like(params), *results[::-1])
        assert_equal(results, kept)
        params, state = results


def test_counts_that_lie_elsewhere_at_the_next_step():
    """A plan knows where a row of counts lay, and has to see that one of them lies somewhere else."""
    tx, params = fx.adam(), [torch.zeros(2) for _ in range(3)]
    grads = [torch.ones(2)] * 3
    state = tx.init(params)
    for _ in range(2):
        params, state = fx.step(tx, grads, state, params, inplace=True)
    row = torch.tensor([2.0, 7.0, 2.0], dtype=state.step[0].dtype)
    apart = torch.tensor(2.0, dtype=row.dtype)
    for counts in (list(row.unbind()), [row[0], apart, row[2]]):
        before = [int(count) for count in counts]
        _, after = fx.step(tx, grads, state._replace(step=counts), params)
        assert [int(count) for count in after.step] == [count + 1 for count in before]


def test_threads_step_by_one_plan():
    def trained(seed):
        generator = torch.Generator().manual_seed(seed)
        params = {name: torch.randn(shape, generator=generator) for name, shape in {"w": (30, 20), "b": (20,)}.items()}
        tx = fx.chain(fx.clip_by_global_norm(1.0), fx.rmsprop(lr=0.1))
        state = tx.init(params)
        for _ in range(50):
            grads = {name: p.sin() for name, p in params.items()}
            params, state = fx.step(tx, grads, state, params, inplace=True)
        return params

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(trained, range(16)))
    assert_equal(found, [trained(seed) for seed in range(16)])


@pytest.mark.parametrize("first, second", [*itertools.permutations(["inference", "no grad", "grad", "float64"], 2)])
def test_modes_and_default_dtypes_between_steps(first, second):
    """A plan that was made in one mode serves in another, or another is made."""
    modes = {
        "inference": torch.inference_mode,
        "no grad": torch.no_grad,
        "grad": torch.enable_grad,
    }

    def stepped(*order):
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
    assert_equal(stepped(first, second, first), stepped("no grad", "no grad", "no grad"))


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
