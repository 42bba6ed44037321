"""How a GPU runs the kernels: graphs, streams, what is compiled when, and that the host does not wait."""

import copy
import inspect

import on_gpu
import pytest
import torch
from agreement import CHAINS, assert_close
from fused_classes import FUSED
from on_gpu import (
    BF16,
    BLOCK,
    DEVICE,
    F32,
    begun,
    captured,
    compilations,
    copies,
    delay,
    give_gradients,
    launches,
    no_waiting,
    parameters,
    randn,
)
from trees import assert_equal, clone, leaves, random_like

import optimfx as fx
from optimfx import optim

pytestmark = on_gpu.marks


def combinations(*flags):
    """Every class with each of the flags that it takes."""
    return pytest.mark.parametrize(
        "cls, flags",
        [
            pytest.param(cls, each, id="-".join([cls.__name__, *each]))
            for cls in FUSED
            for each in flags
            if set(each) <= set(inspect.signature(cls).parameters)
        ],
    )


PURE = {
    **CHAINS,
    "adamw": lambda: fx.adamw(),
    "radam": lambda: fx.radam(),
    "momentum": lambda: fx.sgd(momentum=0.9, dampening=0.5),
    "schedule": lambda: fx.lion(lr=fx.schedules.linear(0.1, 0.0, 10)),
}
WITH_RATE = {
    "clip, adamw": lambda lr: fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=lr)),
    "radam": lambda lr: fx.radam(lr=lr),
    "nadam": lambda lr: fx.nadam(lr=lr),
    "clip, lamb": lambda lr: fx.chain(fx.clip_by_global_norm(1.0), fx.lamb(lr=lr, weight_decay=0.1)),
    "rms, lr": lambda lr: fx.chain(fx.scale_by_rms(), fx.scale_by_lr(lr)),
}


def by_name(table):
    return pytest.mark.parametrize("make", table.values(), ids=table.keys())


@combinations({"capturable": True}, {"capturable": True, "fused": True})
def test_a_captured_step_of_a_class_is_the_step(cls, flags):
    """Replayed with other gradients, parameters and another learning rate in the same tensors."""
    params = parameters(F32, BF16)
    twins = copies(params)
    optimizer, twin = (cls(own, lr=torch.tensor(0.01, device=DEVICE), **flags) for own in (params, twins))
    give_gradients(params, twins)
    graph = captured(optimizer.step)
    twin.step()
    for i in range(3):
        for each in (optimizer, twin):
            each.param_groups[0]["lr"].fill_(0.01 / (i + 1))
        with torch.no_grad():
            for p, q in zip(params, twins):
                p.grad.copy_(torch.randn_like(p))
                q.grad.copy_(p.grad)
                p.copy_(torch.randn_like(p))
                q.copy_(p)
        before = clone([q.detach() for q in twins])
        graph.replay()
        twin.step()
        assert_close([p.detach() for p in params], [q.detach() for q in twins], before)


@by_name(WITH_RATE)
def test_a_captured_pure_step_is_the_step(make):
    """The count goes on in the state; lr, gradients and parameters are changed between replays."""
    lr = torch.tensor(0.1, device=DEVICE)
    tx, params = make(lr), [randn(3 * BLOCK + 3), randn(4, 3)]
    grads = random_like(params)
    state = begun(tx, params)
    twins, twin_state = clone(params), copy.deepcopy(state)
    graph = captured(lambda: fx.step(tx, grads, state, params, inplace=True))
    twins, twin_state = fx.step(tx, clone(grads), twin_state, twins)
    for i in range(3):
        lr.fill_(0.1 / (i + 1))
        for each in (*grads, *params):
            each.copy_(torch.randn_like(each))
        before = clone(params), copy.deepcopy(twin_state)
        twins, twin_state = fx.step(tx, clone(grads), twin_state, clone(params))
        graph.replay()
        assert_close((params, state), (twins, twin_state), before)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # since the step is refused
def test_a_captured_step_whose_count_is_on_the_host_is_refused():
    """Replays would take the step of the capture, each time."""
    params = [randn(3), randn(4, 3)]
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.adamw())
    state = tx.init(params)
    before = clone(params)
    refused = pytest.raises(RuntimeError, match=r"counts on the host.*tree_map")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        fx.step(tx, params, state, params, inplace=True)
    assert_equal(params, before)


def test_a_captured_function_is_called_once_for_each_call():
    """Launched, recorded and replayed; lr and weight decay are changed between the calls."""
    lr, decay = (torch.tensor(x, device=DEVICE) for x in (0.1, 0.01))
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=lr, weight_decay=decay))
    params = [randn(3 * BLOCK + 3), randn(4, 3)]
    grads, state = random_like(params), begun(tx, params)
    twins, twin_state = clone(params), copy.deepcopy(state)
    step = fx.capture(lambda: fx.step(tx, grads, state, params, inplace=True))
    for i in range(5):
        lr.fill_(0.1 / (i + 1))
        decay.fill_(0.01 * i)
        for g in grads:
            g.copy_(torch.randn_like(g))
        before = clone(twins), copy.deepcopy(twin_state)
        twins, twin_state = fx.step(tx, clone(grads), twin_state, twins)
        step()
        assert_close((params, state), (twins, twin_state), before)


def test_two_streams_step_at_once():
    """Models of the same shapes, each in the order of its stream, though the device falls behind the host."""
    models = [parameters() for _ in range(2)]
    twins = [copies(params) for params in models]
    optimizers = [optim.AdamW(params) for params in models]
    references = [optim.AdamW(params) for params in twins]
    grads = [[random_like([p.detach() for p in params]) for _ in range(20)] for params in models]
    streams = [torch.cuda.Stream() for _ in models]
    torch.cuda.synchronize()
    for step in range(20):
        for params, optimizer, stream, own in zip(models, optimizers, streams, grads):
            with torch.cuda.stream(stream):
                delay()
                optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
                for p, grad in zip(params, own[step]):
                    p.grad = grad.clone()
                optimizer.step()
    torch.cuda.synchronize()
    for params, optimizer, own in zip(twins, references, grads):
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            for p, grad in zip(params, own[step]):
                p.grad = grad
            optimizer.step()
    torch.testing.assert_close(models, twins, rtol=0, atol=0)


@combinations({}, {"fused": True})
def test_one_kernel_serves_every_number_and_size(cls, flags):
    params = parameters()
    optimizer = cls(params, **flags)
    give_gradients(params)
    optimizer.step()
    with compilations() as made:
        for step in range(8):
            if step == 3:
                optimizer.add_param_group({"params": parameters() + parameters()})
            if step == 5:
                optimizer.add_param_group({"params": [torch.nn.Parameter(randn(16))]})
            for group in optimizer.param_groups:
                group.update(lr=0.1 / (1 + step))
                give_gradients(group["params"])
            optimizer.step()
    assert made == []


@combinations({}, {"fused": True}, {"capturable": True})
def test_a_class_does_not_make_the_host_wait(cls, flags):
    """Parameters of two dtypes in one group, and a learning rate that changes."""
    params = parameters(F32, BF16)
    optimizer = cls(params, **flags)
    for _ in range(2):
        give_gradients(params)
        optimizer.step()
    with no_waiting():
        for step in range(3):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            give_gradients(params)
            with launches() as sizes:
                optimizer.step()
            assert sizes == [3, 3]


def assert_does_not_wait(tx, state, params):
    grads = random_like(params)
    for _ in range(2):
        params, state = fx.step(tx, grads, state, params)
    with no_waiting():
        for _ in range(3):
            params, state = fx.step(tx, grads, state, params)
            with launches() as sizes:
                fx.step(tx, clone(grads), copy.deepcopy(state), clone(params), inplace=True)
            assert sizes and sizes[0] == len(params)


@by_name(PURE)
@pytest.mark.parametrize("begin", [begun, lambda tx, params: tx.init(params)], ids=["on the device", "on the host"])
def test_a_pure_step_does_not_make_the_host_wait(make, begin):
    """Wherever its count is."""
    tx, params = make(), [randn(3 * BLOCK + 3), randn(4, 3)]
    assert_does_not_wait(tx, begin(tx, params), params)


@by_name(WITH_RATE)
def test_a_learning_rate_on_the_device_does_not_make_the_host_wait(make):
    tx, params = make(torch.tensor(0.1, device=DEVICE)), [randn(3 * BLOCK + 3), randn(4, 3)]
    assert_does_not_wait(tx, begun(tx, params), params)


def test_scaled_gradients_do_not_make_the_host_wait():
    params = parameters()
    optimizer, scaler = optim.AdamW(params, fused=True), torch.amp.GradScaler(DEVICE.type)

    def step():
        give_gradients(params)
        for p in params:
            p.grad = scaler.scale(p.grad)
        scaler.step(optimizer)
        scaler.update()

    step()
    with no_waiting():
        step()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("flags", [{}, {"fused": True}], ids=["default", "fused"])
def test_parameters_on_two_devices(flags):
    """A launch on each, and what one device alone computes."""
    twins = parameters() + parameters()
    devices = [f"cuda:{i // 3}" for i in range(6)]
    params = [torch.nn.Parameter(p.detach().to(device)) for p, device in zip(twins, devices)]
    optimizer, twin = optim.AdamW(params, **flags), optim.AdamW(twins, **flags)
    for _ in range(3):
        give_gradients(twins)
        for p, q in zip(params, twins):
            p.grad = q.grad.to(p.device)
        with launches() as sizes:
            optimizer.step()
        assert sizes == [3, 3]
        twin.step()
    torch.testing.assert_close([p.detach().to(DEVICE) for p in params], [q.detach() for q in twins], rtol=0, atol=0)


def test_more_elements_than_32_bits_count():
    size = 2**31 + BLOCK + 3
    needed = 6 * size
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free memory on the GPU")
    params, grads = torch.zeros(size, dtype=BF16, device=DEVICE), torch.ones(size, dtype=BF16, device=DEVICE)
    tx = fx.sgd(lr=0.5)
    found, _ = fx.step(tx, grads, tx.init(params), params, inplace=True)
    assert found.min().item() == found.max().item() == -0.5


def test_a_state_on_the_device_has_its_count_there():
    """The tests above rely on this."""
    assert {t.device.type for t in leaves(begun(fx.radam(), [randn(3)]))} == {DEVICE.type}
