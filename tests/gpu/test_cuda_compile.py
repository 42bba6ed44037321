"""The kernel in compiled graphs and under ``vmap``, on a GPU."""

import copy

import on_gpu
import pytest
import torch
from agreement import assert_close
from on_gpu import BF16, BLOCK, DEVICE, F32, F64, begun, copies, give_gradients, launches, no_waiting, parameters, randn
from trees import clone, stack

import optimfx as fx
from optimfx import optim

pytestmark = on_gpu.marks

MAKE = {
    "clip, adamw": lambda lr: fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=lr, weight_decay=0.1)),
    "radam": lambda lr: fx.radam(lr=lr),
    "clip, lamb": lambda lr: fx.chain(fx.clip_by_global_norm(1.0), fx.lamb(lr=lr, weight_decay=0.1)),
    "momentum": lambda lr: fx.sgd(lr=lr, momentum=0.9),
}
by_name = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


@pytest.fixture(autouse=True)
def fresh(fresh_compiler):
    """Nothing that other tests compiled."""


def network():
    """Two layers, of which the last is in half precision."""
    dtypes = {"w": F32, "b": F32, "v": BF16, "c": BF16}
    shapes = {"w": (32, 8), "b": (32,), "v": (4, 32), "c": (4,)}
    return {name: randn(*shapes[name], dtype=dtypes[name]) for name in shapes}


def loss(params, x):
    hidden = (x @ params["w"].T + params["b"]).relu().to(BF16)
    return (hidden @ params["v"].T + params["c"]).float().square().mean()


def train_step(tx, state, params, x):
    grads = torch.func.grad(loss)(params, x)
    return grads, *fx.step(tx, grads, state, params)


@by_name
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # of the part after the op, which is in none
def test_a_compiled_training_step_has_one_kernel_for_each_dtype(make, mode):
    """The step that eager takes on the same gradients; the graph is compiled once."""
    tx, params = make(0.1), network()
    state = begun(tx, params)
    compiled = torch.compile(lambda *args: train_step(tx, *args), fullgraph=True, mode=mode)
    for i in range(4):
        x = randn(16, 8)
        with launches() as sizes, torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            grads, *found = clone(compiled(state, params, x))
        # A graph that is replayed launches its kernels by itself.
        assert sizes == [2, 2] or (mode == "reduce-overhead" and i)
        with fx.execution.use("eager"):
            expected = fx.step(tx, grads, copy.deepcopy(state), params)
        assert_close(tuple(found), expected, (params, state))
        params, state = expected


@by_name
@pytest.mark.parametrize("begin", [begun, lambda tx, params: tx.init(params)], ids=["on the device", "on the host"])
def test_a_compiled_step_does_not_make_the_host_wait(make, begin):
    """Wherever its count is."""
    tx, params, x = make(0.1), network(), randn(16, 8)
    state = begin(tx, params)
    compiled = torch.compile(lambda *args: train_step(tx, *args), fullgraph=True)
    for _ in range(2):
        _, params, state = compiled(state, params, x)
    with no_waiting():
        compiled(state, params, x)


@pytest.mark.parametrize("cls", [optim.AdamW, optim.RAdam, optim.NAdam, optim.Lion], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("flags", [{}, {"capturable": True}], ids=["default", "capturable"])
def test_a_compiled_class_has_one_kernel_for_each_dtype(cls, flags):
    params = parameters(F32, BF16)
    twins = copies(params)
    optimizer, twin = cls(params, **flags), cls(twins, **flags)
    step = torch.compile(optimizer.step, fullgraph=True)
    for _ in range(3):
        give_gradients(params, twins)
        before = clone([q.detach() for q in twins])
        with launches() as sizes:
            step()
        assert sizes == [3, 3]
        twin.step()
        assert_close([p.detach() for p in params], [q.detach() for q in twins], before)


@by_name
def test_models_with_learning_rates_of_their_own(make):
    """One launch for each leaf of all models, whose scalars are a table; as one by one."""
    lrs = torch.tensor([0.1, 0.01, 1.0], dtype=F64, device=DEVICE)
    models = [{"w": randn(BLOCK + 3), "b": randn(2, 2)} for _ in lrs]
    grads = [{"w": randn(BLOCK + 3), "b": randn(2, 2)} for _ in lrs]

    def step(lr, grads, params):
        tx = make(lr)
        return fx.step(tx, grads, tx.init(params), params)[0]

    with launches() as sizes:
        found = torch.vmap(step)(lrs, stack(grads), stack(models))
    assert sizes == [2] or sizes == [1, 1]
    with fx.execution.use("eager"):
        expected = stack([step(*each) for each in zip(lrs, grads, models)])
    assert_close(found, expected, stack(models))


def test_derivatives_are_those_of_the_rule():
    params, grads = randn(5, dtype=F64), randn(5, dtype=F64)

    def moved(lr, grads):
        tx = fx.adamw(lr=lr, eps_root=1e-6)
        return fx.step(tx, grads, tx.init(params), params)[0].square().sum()

    derivative = torch.func.grad(moved, argnums=(0, 1))
    with launches() as sizes:
        found = derivative(torch.tensor(0.1, dtype=F64, device=DEVICE), grads)
    assert sizes == [1]
    with fx.execution.use("eager"):
        torch.testing.assert_close(found, derivative(torch.tensor(0.1, dtype=F64, device=DEVICE), grads))
