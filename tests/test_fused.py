"""Executors that round otherwise than eager: torch's own kernels, and the compiled ones."""

import copy
import warnings

import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, each_value, once_maximized
from trees import clone, leaves, random_like

import optimfx as fx
from optimfx import optim
from optimfx.execution import blocked, compiled, flat

ULPS = {torch.float32: 8, torch.float64: 8, torch.bfloat16: 1, torch.float16: 1}
"""Of the largest number in a tensor, before the step and after it. In half precision both compute in float32, so that
only the last rounding can go another way."""


def assert_close(ours, eager, before):
    """Every tensor to so many ulp of its largest number."""
    for x, y, old in zip(leaves(ours), leaves(eager), leaves(before), strict=True):
        assert (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride())
        if y.is_complex():
            x, y, old = map(torch.view_as_real, (x, y, old))
        if y.numel():
            scale = torch.stack([y.abs().max(), old.abs().max()]).max().double()  # float16 could not hold its ulp
            ulps = ((x.double() - y.double()).abs().max() / (torch.finfo(y.dtype).eps * scale.clamp_min(1e-6))).item()
            assert ulps <= ULPS[y.dtype], f"{ulps} ulp"


def assert_agrees(tx, params, executor, *, stepping=True, inplace=True, steps=3, hand=clone):
    """Each step from the same state: differences must not add up, or a sign that flips would hide what they are."""
    state = tx.init(params)
    for _ in range(steps):
        grads = hand(random_like(params))
        results = {}
        for name in ("eager", executor):
            given = hand(grads), copy.deepcopy(state), hand(params)
            with fx.execution.use(name):
                if stepping:
                    results[name] = fx.step(tx, *given, inplace=inplace)
                else:
                    results[name] = tx.update(*given, inplace=inplace)
        before = (params if stepping else grads, state)
        assert_close(results[executor], results["eager"], before)
        after, state = results["eager"]
        params = after if stepping else params


def elementwise(row, options):
    return bool(row.rule and row.rule.elementwise)


SIZES = [0, 1, 7, 4 * flat.SMALL + 3]


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

    assert_agrees(fx.adamw(lr=0.1), [randn(3, 5), randn(flat.SMALL + 1), randn(2)], "compiled")


KERNELS = ("sgd", "adam", "adamw", "adagrad")


@cases(ALGORITHMS, where=lambda row, options: row.name in KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_torchs_kernel_equals_eager(row, options, dtype):
    """In half precision (2.13), its SGD is off by more than the step, and its Adagrad rounds a decayed gradient."""
    tx = row(**options)
    (executor,) = {executor for _, executor, *_ in fx.explain(tx, ragged(row, dtype))}
    wrong = {"sgd": options.get("momentum") or options.get("weight_decay"), "adagrad": options.get("weight_decay")}
    assert executor == ("blocked" if wrong.get(row.name) and dtype.itemsize < 4 else "aten")
    assert_agrees(tx, ragged(row, dtype), executor)


def channels_last(tree):
    """Copies in the memory order of images, or as they are."""
    return [x.clone().to(memory_format=torch.channels_last) if x.dim() == 4 else x.clone() for x in tree]


def transposed(tree):
    """Copies that lie in memory column by column; the state, made of others, does not."""
    return [x.mT.contiguous().mT if x.dim() > 1 else x.clone() for x in tree]


def with_gaps(tree):
    """Copies that are every second number of a larger tensor."""
    return [torch.stack([x, x], -1)[..., 0] for x in tree]


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


@pytest.mark.parametrize("executor", ["blocked", "compiled"])
@pytest.mark.parametrize("size", [flat.PACKED - 1, flat.PACKED, flat.PACKED + 1, 2 * blocked.BLOCK + 1])
def test_the_edges_of_blocks_and_workspaces(executor, size):
    small = [torch.randn(flat.SMALL) for _ in range(size // flat.SMALL)] + [torch.randn(size % flat.SMALL)]
    assert_agrees(fx.rmsprop(), [*small, torch.randn(size)], executor, steps=1)


CHAINS = {
    "clip, adamw": lambda: fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=0.1, weight_decay=0.1)),
    "clip, decay, momentum, lr": lambda: fx.chain(
        fx.clip_by_value(0.5),
        fx.add_decayed_weights(0.1),
        fx.momentum(0.9),
        fx.scale_by_lr(lambda step: 0.1 / (1 + step)),
    ),
    "a norm in the middle": lambda: fx.chain(fx.scale(2.0), fx.clip_by_global_norm(1.0), fx.lion()),
}


@pytest.mark.parametrize(
    "name, executor, inplace",
    [(name, executor, inplace) for name in CHAINS for executor in ("blocked", "compiled") for inplace in (True, False)]
    + [("clip, adamw", "aten", True)],
)
def test_a_chain_in_one_pass_equals_its_links_one_by_one(name, executor, inplace):
    tx = CHAINS[name]()
    params = [torch.randn(7, 3), torch.randn(flat.SMALL + 1), torch.randn(2)]
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
    """No kernel is made anew when hyperparameters, the step or the sizes change; RAdam turns a branch on the way."""
    w = torch.nn.Parameter(torch.randn(50))
    optimizer = optim.RAdam([w], fused=True)
    before = set(compiled._kernels)
    for step in range(12):
        if step == 3:
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.randn(flat.SMALL + step))]})
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
        with pytest.warns(UserWarning, match=r"no C\+\+ compiler was found"):
            assert_agrees(fx.rmsprop(), params, "compiled")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_agrees(fx.rmsprop(), params, "compiled")
    compiled._has_compiler.cache_clear()
