"""Executors agree, and each is chosen where it should be."""

import copy

import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, once_maximized
from trees import assert_equal, clone, random_like

import optimfx as fx
from optimfx.execution.executors import blocked, compiled, foreach
from optimfx.execution.memory import packing


@cases(ALGORITHMS + LINKS, where=lambda row, options: "blocked" in row.executors and once_maximized(row, options))
@pytest.mark.parametrize("stepping", [False, True], ids=["update", "step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_executors_equal_eager(row, options, stepping, dtype):
    """Parameters and state over five steps, bit for bit: on a CPU, the same kernels run."""

    def run(executor):
        torch.default_generator.manual_seed(0)
        tx = row(**options)
        params = row.params(dtype)
        state = tx.init(params)
        with fx.execution.use(executor):
            for _ in range(5):
                grads = random_like(params)
                if stepping:
                    params, state = fx.step(tx, grads, state, params)
                else:
                    updates, state = tx.update(grads, state, params)
                    params = fx.apply_updates(params, updates)
        return params, state

    expected = run("eager")
    for executor in ("foreach", "blocked"):
        assert_equal(run(executor), expected, msg=lambda text, executor=executor: f"{executor}: {text}")


@cases(ALGORITHMS + LINKS, where=lambda row, options: "blocked" in row.executors and once_maximized(row, options))
@pytest.mark.parametrize("stepping", [False, True], ids=["update", "step"])
@pytest.mark.parametrize("inplace", [False, True], ids=["out of place", "in place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_block_by_block_equals_at_once(row, options, stepping, inplace, dtype, monkeypatch):
    """Bit for bit, where the rule is recorded and played on blocks, the last of which is shorter."""
    monkeypatch.setattr(packing, "SMALL", 8)
    monkeypatch.setattr(blocked, "BLOCK", 16)
    tx, params = row(**options), [row.randn(39, dtype=dtype), row.randn(4, 4, dtype=dtype)]
    state = tx.init(params)
    for _ in range(3):
        grads = random_like(params)
        results = []
        for executor in ("eager", "blocked"):
            given = clone(grads), copy.deepcopy(state), clone(params)
            with fx.execution.use(executor):
                step = fx.step(tx, *given, inplace=inplace) if stepping else tx.update(*given, inplace=inplace)
                results.append(step)
        assert_equal(*reversed(results))
        after, state = results[0]
        params = after if stepping else params


def executors(tx, params):
    return [row.executor for row in fx.explain(tx, params)]


def test_explain_groups_by_dtype_and_says_why():
    params = {"a": torch.zeros(8), "b": torch.zeros(8), "c": torch.zeros(3, dtype=torch.float64), "none": None}
    rows = fx.explain(fx.chain(fx.clip_by_global_norm(1.0), fx.adam()), params)
    assert [(row.transform, row.executor, row.leaves, row.elements, row.dtype) for row in rows] == [
        ("clip_by_global_norm + adam", "aten", 2, 16, "float32"),
        ("clip_by_global_norm + adam", "aten", 1, 3, "float64"),
    ]
    assert rows[0].reason == "torch's own kernel"
    header, *lines = repr(rows).splitlines()
    assert header.split() == ["transform", "executor", "leaves", "elements", "dtype", "device", "reason"]
    assert len(lines) == 2


def test_explain_sees_through_every_combinator():
    params = {"a": torch.zeros(8), "b": torch.zeros(8)}
    tx = fx.chain(
        fx.stateless(lambda updates, params: updates),
        fx.masked(fx.scale(2.0), {"a": True, "b": False}),
        fx.inject_hyperparams(fx.adam)(lr=0.1),
        fx.partition({0: fx.sgd(), 1: fx.chain(fx.clip_by_global_norm(1.0), fx.lion())}, {"a": 0, "b": 1}),
    )
    assert [(row.transform, row.leaves) for row in fx.explain(tx, params)] == [
        ("stateless", 2),
        ("scale + adam + sgd", 1),
        ("adam", 1),
        ("clip_by_global_norm + lion", 1),
    ]


def test_explain_follows_use():
    params = {"a": torch.zeros(8), "b": torch.zeros(8)}
    with fx.execution.use("eager"):
        (row,) = fx.explain(fx.adam(), params)
        with fx.execution.use("foreach"):
            assert executors(fx.adam(), params) == ["foreach"]
    assert (row.executor, row.reason) == ("eager", "forced by execution.use")
    assert executors(fx.adam(), params) == ["aten"]


def count_blocked(monkeypatch):
    calls = []
    bind = blocked.Blocked.bind

    def counted(*args, **options):
        run = bind(*args, **options)
        return lambda *given: calls.append(1) or run(*given)

    monkeypatch.setattr(blocked.Blocked, "bind", counted)
    return calls


def test_transformed_and_differentiated_calls_select_eager(monkeypatch):
    calls = count_blocked(monkeypatch)
    params = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    tx = fx.adam()

    def step(grads, tx=tx):
        return fx.step(tx, grads, tx.init(params), params)[0]["a"].sum()

    step(params)
    assert len(calls) == 1  # plainly, these leaves run together
    torch.func.vmap(lambda p: fx.step(tx, p, tx.init(p), p)[0])(params)
    torch.func.grad(step)(params)
    torch.func.jvp(step, (params,), (params,))
    step({name: p.clone().requires_grad_() for name, p in params.items()})
    step(params, fx.adam(lr=torch.tensor(0.1, requires_grad=True)))
    assert len(calls) == 1
    with torch.no_grad():
        step({name: p.clone().requires_grad_() for name, p in params.items()})
    assert len(calls) == 2


def test_a_forced_executor_that_cannot_run_says_so():
    params = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    tx = fx.adam()
    with fx.execution.use("foreach"), pytest.raises(ValueError, match=r"'foreach'.*cannot run.*torch\.func"):
        torch.func.vmap(lambda p: fx.step(tx, p, tx.init(p), p)[0])(params)


OPERATORS = {
    "arithmetic": lambda x: 1 - (2 * x + 1) / 3 + x / x - (-x) ** 2 * x + (1 + x) - (x - 1),
    "1 / x": lambda x: 1 / x,
    "comparisons": lambda x: fx.ops.where(x > 0, x, -x) + fx.ops.where(x <= 1, x, 1 * x) * fx.ops.where(x < 2, x, x),
    "words": lambda x: fx.ops.sqrt(fx.ops.abs(x)) + fx.ops.sign(x) + fx.ops.maximum(x, -x) + fx.ops.minimum(x, 0.5),
    "clamp": lambda x: fx.ops.clamp(x, -0.5, 0.5) + fx.ops.where(x >= 0, x, x),
}


@pytest.mark.parametrize("expression", OPERATORS.values(), ids=OPERATORS.keys())
def test_operators_and_words_on_lists(expression):
    """A rule may use all of them: those that torch has no list form of run leaf by leaf."""
    tensors = [torch.randn(5), torch.randn(2, 2)]
    assert_equal(expression(foreach.TensorList(tensors)).tensors, [expression(x) for x in tensors])


def test_parameters_that_require_grad_are_stepped_in_place():
    """As torch.optim steps them: outside of autograd."""
    w = torch.nn.Parameter(torch.ones(2))
    tx = fx.sgd(lr=0.5)
    fx.step(tx, torch.ones(2), tx.init(w), w, inplace=True)
    assert w.requires_grad and w.grad_fn is None
    assert_equal(w.detach(), torch.tensor([0.5, 0.5]))


def test_large_trees_in_half_precision_are_compiled_unasked():
    few, many = (torch.empty(compiled.MIN_ELEMENTS + n, dtype=torch.bfloat16) for n in (-1, 0))
    assert [executors(fx.rmsprop(), tree) for tree in ([few], [many], [many.float()])] == [
        ["blocked"],
        ["compiled"],
        ["blocked"],
    ]


@cases(ALGORITHMS + LINKS, where=lambda row, options: options == row.richest, executors=True)
def test_the_default_device_plays_no_part(row, options, executor):
    """``torch.set_default_device("cuda")`` must not scatter counts, scalars and scratch memory over devices."""
    assert_unmoved(row(**options), row.params(), executor)


@pytest.mark.parametrize("executor", ["aten", "compiled"])
def test_the_default_device_plays_no_part_in_kernels_of_others(executor):
    assert_unmoved(fx.adamw(), [torch.randn(9)], executor, inplace=True)


def test_the_default_device_plays_no_part_in_blocks():
    assert_unmoved(fx.rprop(), [torch.randn(packing.SMALL + 1)], "blocked")


def test_the_default_device_plays_no_part_around_rules():
    tx = fx.inject_hyperparams(fx.sgd)(lr=fx.schedules.multiplicative(0.1, lambda step: 0.9, 3))
    assert_unmoved(fx.multi_steps(tx, 2), [torch.randn(9)], "blocked")


def assert_unmoved(tx, params, executor, **options):
    gradients = [random_like(params) for _ in range(3)]

    def run():
        stepped, state = clone(params), tx.init(params)
        with fx.execution.use(executor):
            for grads in gradients:
                stepped, state = fx.step(tx, grads, state, stepped, **options)
        return stepped, state

    with torch.device("meta"):
        found = run()
    assert_equal(found, run())
