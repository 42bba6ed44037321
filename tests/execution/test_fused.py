"""Executors that round otherwise than eager: torch's own kernels, and the compiled ones."""

import copy
import warnings

import pytest
import torch
from agreement import CHAINS, assert_agrees, assert_close, channels_last, transposed, with_gaps
from catalogue import ALGORITHMS, LINKS, cases, each_value, once_maximized
from trees import assert_equal, clone, random_like

import optimfx as fx
from optimfx import optim
from optimfx.execution.executors import blocked, compiled
from optimfx.execution.memory import packing

SIZES = [0, 1, 7, 4 * packing.SMALL + 3]


def ragged(row, dtype=torch.float32):
    """Packed and alone, empty, and with a tail that no vector fills."""
    return [row.randn(size, dtype=dtype) for size in SIZES] + [row.randn(3, 5, dtype=dtype), row.randn(dtype=dtype)]


def compiles(row, options):
    """One in all options, which differ by flags, slots and terms: that no two share a kernel is not up to the rule."""
    return "blocked" in row.executors and (
        each_value(row, options) or (row.name == "sgd" and once_maximized(row, options))
    )


@cases(ALGORITHMS + LINKS, where=compiles)
def test_compiled_equals_eager(row, options):
    assert_agrees(row(**options), ragged(row), "compiled")


@cases(ALGORITHMS, where=lambda row, options: row.name in ("adamw", "rmsprop", "lion") and options == row.richest)
@pytest.mark.parametrize("stepping", [True, False], ids=["step", "update"])
def test_compiled_out_of_place_equals_eager(row, options, stepping):
    assert_agrees(row(**options), ragged(row), "compiled", stepping=stepping, inplace=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_compiled_in_other_dtypes_equals_eager(dtype):
    def randn(*shape):
        return torch.randn(shape, dtype=dtype)

    assert_agrees(fx.adamw(lr=0.1), [randn(3, 5), randn(packing.SMALL + 1), randn(2)], "compiled")


KERNELS = ("sgd", "adam", "adamw", "adagrad")


@cases(ALGORITHMS, where=lambda row, options: row.name in KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_torchs_kernel_equals_eager(row, options, dtype):
    """In half precision, its SGD is off by more than the step, and its Adagrad rounds a decayed gradient, and eps."""
    tx = row(**options)
    (executor,) = {executor for _, executor, *_ in fx.explain(tx, ragged(row, dtype))}
    wrong = {"sgd": options.get("momentum") or options.get("weight_decay"), "adagrad": True}
    assert executor == ("blocked" if wrong.get(row.name) and dtype.itemsize < 4 else "aten")
    assert_agrees(tx, ragged(row, dtype), executor)


@cases(ALGORITHMS, where=lambda row, options: not options)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_gradient_of_zero_makes_no_nan(row, options, dtype):
    """Where eager has none: an eps that is added in half precision is 0."""
    params = [torch.ones(64, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype)]
    grads = [torch.zeros_like(p) for p in params]
    grads[0][0] = 1
    tx = row()
    with fx.execution.use("eager"):
        expected, _ = fx.step(tx, clone(grads), tx.init(params), params)
    stepped, _ = fx.step(tx, clone(grads), tx.init(params), clone(params), inplace=True)
    for x, y in zip(stepped, expected):
        assert torch.equal(x.isfinite(), y.isfinite())


@pytest.mark.parametrize("hand", [channels_last, transposed, with_gaps])
@pytest.mark.parametrize(
    "executor, inplace",
    [(name, inplace) for name in ("blocked", "compiled") for inplace in (True, False)] + [("aten", True)],
)
def test_memory_orders(executor, hand, inplace):
    """The elements of a leaf are those of its gradient and state, however each of them lies in memory."""
    params = hand([torch.randn(8, 64, 5, 7), torch.randn(3, 4, 2, 2), torch.randn(129, 65), torch.randn(5)])
    assert_agrees(fx.adam(), params, executor, inplace=inplace, hand=hand)


def test_torchs_kernel_steps_in_place_alone():
    with pytest.raises(ValueError, match="in place"):
        assert_agrees(fx.adam(), [torch.randn(5)], "aten", inplace=False)


def test_a_step_that_is_a_sum_leaves_alone_what_it_is_given():
    tx, params = fx.sgd(lr=0.5), [torch.randn(5), torch.randn(3, 2)]
    grads = random_like(params)
    before = copy.deepcopy((params, grads))
    with fx.execution.use("aten"):
        new, _ = fx.step(tx, grads, tx.init(params), params)
    assert_equal((params, grads), before)
    assert_equal(new, [p - 0.5 * g for p, g in zip(params, grads)])


@pytest.mark.parametrize("executor", ["blocked", "compiled"])
@pytest.mark.parametrize("size", [packing.PACKED - 1, packing.PACKED, packing.PACKED + 1, 2 * blocked.BLOCK + 1])
def test_the_edges_of_blocks_and_workspaces(executor, size):
    small = [torch.randn(packing.SMALL) for _ in range(size // packing.SMALL)] + [torch.randn(size % packing.SMALL)]
    assert_agrees(fx.rmsprop(), [*small, torch.randn(size)], executor, steps=1)


@pytest.mark.parametrize(
    "name, executor, inplace",
    [(name, executor, inplace) for name in CHAINS for executor in ("blocked", "compiled") for inplace in (True, False)]
    + [("clip, adamw", "aten", True)],
)
def test_a_chain_in_one_pass_equals_its_links_one_by_one(name, executor, inplace):
    tx = CHAINS[name]()
    params = [torch.randn(7, 3), torch.randn(packing.SMALL + 1), torch.randn(2)]
    state = tx.init(params)
    for _ in range(3):
        grads = random_like(params)
        updates, states = grads, []
        for link, before in zip((link for link in tx.update.links), state):
            updates, after = link.update(updates, before, params)
            states.append(after)
        expected = fx.apply_updates(params, updates), tuple(states)
        given = clone(grads), copy.deepcopy(state), clone(params)
        with fx.execution.use(executor):
            found = fx.step(tx, *given, inplace=inplace)
        assert_close(found, expected, (params, state))
        params, state = expected


def test_a_chain_is_one_pass_but_for_a_norm_of_what_a_link_made():
    params = [torch.randn(3)]
    names = [[row.transform for row in fx.explain(make(), params)] for make in CHAINS.values()]
    assert names == [
        ["clip_by_global_norm + adamw"],
        ["clip_by_value + add_decayed_weights + momentum + scale_by_lr"],
        ["scale", "clip_by_global_norm + lion"],
    ]


def test_one_kernel_serves_every_number_and_size():
    """No kernel is made again when hyperparameters, the step or the sizes change; RAdam turns a branch on the way."""
    w = torch.nn.Parameter(torch.randn(50))
    optimizer = optim.RAdam([w], fused=True)
    before = set(compiled._kernels)
    for step in range(12):
        if step == 3:
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.randn(packing.SMALL + step))]})
        for group in optimizer.param_groups:
            group.update(lr=0.1 / (1 + step), betas=(0.9 - step / 100, 0.99), eps=1e-8 * (1 + step))
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        optimizer.step()
    assert len(set(compiled._kernels) - before) <= 1


def test_without_a_compiler_the_blocked_executor_runs_and_that_is_said_once():
    from torch._inductor import config

    compiled._has_compiler.cache_clear()
    params = [torch.randn(5)]
    with config.patch("cpp.cxx", ("no-such-compiler",)):
        with pytest.warns(UserWarning, match=r"no C\+\+ compiler was found"), fx.execution.use("compiled", "blocked"):
            (row,) = fx.explain(fx.rmsprop(), params)
            assert (row.executor, row.reason) == (
                "blocked",
                "forced by execution.use; not compiled: no C++ compiler was found",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer = fx.optim.Lion([torch.nn.Parameter(params[0])], fused=True)
            optimizer.param_groups[0]["params"][0].grad = torch.ones(5)
            optimizer.step()
            with fx.execution.use("compiled"), pytest.raises(ValueError, match=r"no C\+\+ compiler was found"):
                fx.step(fx.rmsprop(), params, fx.rmsprop().init(params), params)
    compiled._has_compiler.cache_clear()
