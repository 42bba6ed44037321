"""Numbers on a GPU: kernels against the eager executor, and classes against torch's."""

import functools
import itertools

import on_gpu
import pytest
import torch
from agreement import CHAINS, assert_agrees, assert_close, channels_last, transposed, with_gaps
from catalogue import ALGORITHMS, LINKS, cases, once_maximized
from fused_classes import FUSED, TORCHS
from interpreted import MORE_CHAINS, has_kernel
from on_gpu import (
    BF16,
    BLOCK,
    DEVICE,
    F16,
    F32,
    F64,
    copies,
    give_gradients,
    launches,
    no_waiting,
    parameters,
    randn,
)
from trees import assert_equal, clone, leaves

import optimfx as fx
from optimfx import optim
from optimfx.execution.executors.triton import norm
from optimfx.execution.executors.triton.runtime import launch

pytestmark = on_gpu.marks

by_class = pytest.mark.parametrize("cls", FUSED, ids=lambda cls: cls.__name__)
by_flags = pytest.mark.parametrize("flags", [{}, {"fused": True}], ids=["default", "fused"])


def ragged(row, dtype=F32):
    """Nothing, less than a chunk, several with a tail, and a matrix."""
    shapes = [(0,), (BLOCK - 1,), (3 * BLOCK + 3,), (3, 5)]
    return [row.randn(*shape, dtype=dtype).to(DEVICE) for shape in shapes]


@cases(ALGORITHMS + LINKS, where=lambda row, options: has_kernel(row, options) and once_maximized(row, options))
def test_kernels_on_a_gpu_equal_eager(row, options):
    """A single number too, of which half precision could not say how close is close."""
    assert_agrees(row(**options), [*ragged(row), row.randn().to(DEVICE)], "triton")


@pytest.mark.parametrize("dtype", [F64, BF16, F16], ids=str)
@cases(ALGORITHMS + LINKS, where=lambda row, options: has_kernel(row, options) and options == row.richest)
def test_equals_eager_in_other_dtypes(row, options, dtype):
    # Some states begin at 0, around which float16 has no scale to compare with.
    state = {"state_dtype": F32} if dtype is F16 and row.takes("state_dtype") else {}
    assert_agrees(row(**{**state, **options}), ragged(row, dtype), "triton")


@pytest.mark.parametrize("param, grad, state", [*itertools.product([F32, BF16, F16, F64], repeat=3)], ids=str)
def test_dtypes_may_differ(param, grad, state):
    tx = fx.chain(fx.clip_by_value(0.5), fx.adamw(lr=0.1, state_dtype=state))
    params = [randn(BLOCK + 3, dtype=param)]
    before, grads = tx.init(params), [randn(BLOCK + 3, dtype=grad)]
    results = []
    for executor in ("triton", "eager"):
        with fx.execution.use(executor):
            results.append(fx.step(tx, grads, before, params))
    assert_close(*results, (params, before))


@pytest.mark.parametrize("make", {**CHAINS, **MORE_CHAINS}.values(), ids={**CHAINS, **MORE_CHAINS}.keys())
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "out of place"])
@pytest.mark.parametrize("stepping", [True, False], ids=["step", "update"])
def test_chains(make, inplace, stepping):
    assert_agrees(make(), [randn(BLOCK + 3), randn(2, 2)], "triton", inplace=inplace, stepping=stepping)


@pytest.mark.parametrize("chunks", [1, launch.PROGRAMS, 40 * launch.PROGRAMS])
def test_the_norm_of_all_gradients(chunks):
    """The same each time, and without a wait."""
    grads = [randn(chunks * BLOCK + 3), randn(5), randn(7, 3, dtype=BF16)]
    exact = torch.cat([grad.double().flatten() for grad in grads]).norm()
    norm.global_norm(grads)
    with no_waiting():
        found = [norm.global_norm(grads) for _ in range(2)]
    assert_equal(*found)
    # The sum of the squares of a chunk is in float32.
    torch.testing.assert_close(found[0], exact, rtol=8 * torch.finfo(F32).eps, atol=0)


def test_complex_numbers():
    assert_agrees(fx.adamw(lr=0.1), [randn(BLOCK + 1, dtype=torch.complex64), randn(dtype=torch.complex64)], "triton")


def test_rounding_at_random_is_the_same_at_every_place():
    tx = fx.chain(fx.scale(-1.0), fx.stochastic_rounding(seed=5))
    params = [randn(2 * BLOCK + 3, dtype=BF16), randn(5, 4, dtype=BF16).t()]
    grads = [1e-3 * torch.randn_like(p, dtype=F32) for p in params]
    results = []
    for executor in ("triton", "eager"):
        with fx.execution.use(executor):
            results.append(fx.step(tx, grads, tx.init(params), params))
    assert_equal(*results)


@pytest.mark.parametrize("hand", [channels_last, transposed, with_gaps])
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "out of place"])
def test_memory_orders(hand, inplace):
    assert_agrees(fx.adam(), hand([randn(8, 64, 5, 7), randn(129, 65), randn(5)]), "triton", inplace=inplace, hand=hand)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("offset", [4, 1], ids=["aligned", "misaligned"])
def test_nothing_around_a_leaf_is_touched(size, offset):
    around = torch.zeros(2 * BLOCK + size, device=DEVICE)
    inside = slice(BLOCK + offset, BLOCK + offset + size)
    params, grads = [around[inside], randn(3)], [torch.ones(size, device=DEVICE), randn(3)]
    expected = torch.zeros_like(around)
    expected[inside] = -0.5
    with fx.execution.use("triton"):
        fx.step(fx.sgd(lr=0.5), grads, fx.sgd().init(params), params, inplace=True)
    assert_equal(around, expected)


@cases(ALGORITHMS, where=has_kernel)
def test_triton_is_the_default_on_a_gpu(row, options):
    """In one launch for all leaves."""
    tx, params = row(**options), ragged(row)
    assert {shown.executor for shown in fx.explain(tx, params)} == {"triton"}
    with launches() as sizes:
        fx.step(tx, clone(params), tx.init(params), params)
    assert sizes == [len(params)]


@by_class
@by_flags
def test_a_class_takes_one_launch(cls, flags):
    params = parameters()
    optimizer = cls(params, **flags)
    for _ in range(3):
        give_gradients(params)
        with launches() as sizes:
            optimizer.step()
        assert sizes == [len(params)]


def tensors(optimizer):
    """Parameters and state; where torch and we keep counts on the host or not, here they are not."""
    state = optimizer.state_dict()["state"]
    params = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    return params, [{name: x.to(DEVICE) for name, x in each.items()} for each in state.values()]


def assert_steps_alike(ours, theirs):
    """To 8 ulp, or 1 in half precision, each step from the same state: differences must not add up."""
    columns = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in (ours, theirs)]
    for _ in range(3):
        give_gradients(*columns)
        before = clone(tensors(theirs))
        ours.step()
        theirs.step()
        after = tensors(theirs)
        assert_close(tensors(ours), after, before if before[1] else after)
        with torch.no_grad():
            kept = [[p, *leaves(optimizer.state[p])] for optimizer, own in zip((ours, theirs), columns) for p in own]
            for mine, their in zip(kept[: len(columns[0])], kept[len(columns[0]) :]):
                for x, y in zip(mine, their):
                    x.copy_(y)


@functools.cache
def torch_has_kernel(theirs):
    """Whether torch has one of its own for this class here; for Adagrad, not all versions have."""
    p = torch.nn.Parameter(randn(1))
    p.grad = torch.ones_like(p)
    try:
        theirs([p], fused=True).step()
    except (TypeError, RuntimeError):
        return False
    return True


def torchs(cls, params, flags):
    """torch's class, by its own kernel if it has one and that is asked for; or ours, leaf by leaf, if it has none."""
    theirs = getattr(torch.optim, cls.__name__, None)
    if theirs is None:
        return cls(params, foreach=False)
    return theirs(params, **(flags if torch_has_kernel(theirs) else {}))


ROUGH = ("Adam", "AdamW")
"""Classes whose kernels of torch's correct the bias in float32, in which 1 - 0.999 has four digits."""


@by_class
@by_flags
def test_a_class_equals_torchs(cls, flags):
    params = parameters()
    theirs = {} if cls.__name__ in ROUGH else flags
    assert_steps_alike(cls(params, **flags), torchs(cls, copies(params), theirs))


@pytest.mark.parametrize("name", ROUGH)
def test_the_first_step_is_nearer_to_float64_than_that_of_torchs_kernel(name):
    params = parameters()
    others = copies(params), [torch.nn.Parameter(p.detach().double()) for p in params]
    give_gradients(params, others[0])
    for p, exact in zip(params, others[1]):
        exact.grad = p.grad.double()
    theirs = getattr(torch.optim, name)
    for optimizer in (getattr(optim, name)(params, fused=True), theirs(others[0], fused=True), theirs(others[1])):
        optimizer.step()
    ours, torchs_ = (
        max((p.double() - exact).abs().max().item() for p, exact in zip(found, others[1]))
        for found in (params, others[0])
    )
    assert ours <= 2 * torch.finfo(F32).eps < torchs_  # of numbers up to 4


@pytest.mark.parametrize("dtype", [F64, BF16, F16], ids=str)
@pytest.mark.parametrize("name", sorted(TORCHS))
def test_a_fused_class_equals_torchs_fused_in_other_dtypes(name, dtype):
    if not torch_has_kernel(getattr(torch.optim, name)):
        pytest.skip(f"needs a torch with a CUDA kernel for {name}; {torch.__version__} has none")
    params = parameters(dtype)
    # In float16, a second moment and an eps of 1e-8 are both 0.
    options = {} if name == "SGD" else {"eps": 1e-3}
    ours = getattr(optim, name)(params, fused=True, **options)
    assert_steps_alike(ours, getattr(torch.optim, name)(copies(params), fused=True, **options))


@pytest.mark.parametrize("cls", [optim.Adam, optim.AdamW, optim.SGD], ids=lambda cls: cls.__name__)
def test_a_fused_step_takes_scaled_gradients(cls):
    """And leaves out a step on which they overflowed, as torch's."""
    params = parameters()
    twins = copies(params)
    optimizers = [cls(params, fused=True), getattr(torch.optim, cls.__name__)(twins, fused=True)]
    scalers = [torch.amp.GradScaler(DEVICE.type, init_scale=1024.0) for _ in optimizers]
    for step in range(4):
        give_gradients(params, twins)
        for own, optimizer, scaler in zip((params, twins), optimizers, scalers):
            for p in own:
                p.grad = scaler.scale(p.grad)
            if step == 2:
                own[0].grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        torch.testing.assert_close(params, twins, rtol=1e-5, atol=1e-6)
    assert scalers[0].get_scale() == scalers[1].get_scale() == 512.0
