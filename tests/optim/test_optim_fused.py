"""``fused=True`` on every elementwise class, and executors that keep nothing that could go stale."""

import copy
import pickle

import pytest
import torch
from agreement import assert_close
from fused_classes import FUSED, TORCHS
from trees import clone

import optimfx as fx
from optimfx import optim
from optimfx.execution import EXECUTORS
from optimfx.optim.classes.extra import FromFactory

by_class = pytest.mark.parametrize("cls", FUSED, ids=lambda cls: cls.__name__)


@pytest.fixture
def ran(monkeypatch):
    """The names of the executors that have run."""
    names = []
    for name, executor in EXECUTORS.items():

        def bind(*args, bind=executor.bind, name=name, **options):
            run = bind(*args, **options)
            return lambda *given: names.append(name) or run(*given)

        monkeypatch.setattr(executor, "bind", bind)
    return names


def some_params():
    return [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (3,), (), (20_000,)]]


def give_gradients(*many):
    for group in zip(*many):
        grad = torch.randn_like(group[0])
        for p in group:
            p.grad = grad.clone()


def tensors(optimizer):
    state = optimizer.state_dict()["state"]
    return [p.detach() for group in optimizer.param_groups for p in group["params"]], [*state.values()]


@by_class
def test_a_fused_class_equals_the_one_by_one(cls, ran):
    """Within 8 ulp a step, each from the same state; and its groups and state are what they are without."""
    params = some_params()
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    fused, plain = cls(params, fused=True), cls(twins, foreach=False)
    for _ in range(3):
        give_gradients(params, twins)
        before = clone(tensors(plain))
        ran.clear()
        fused.step()
        assert set(ran) == {"aten" if cls.__name__ in TORCHS else "compiled"}
        plain.step()
        if len(before[1]):  # before the first step there is no state to compare with
            assert_close(tensors(fused), tensors(plain), before)
        kept = copy.deepcopy(plain.state_dict()["state"])
        fused.load_state_dict({"state": kept, "param_groups": fused.state_dict()["param_groups"]})
        with torch.no_grad():
            torch._foreach_copy_(params, twins)
    assert set(fused.param_groups[0]) == set(plain.param_groups[0])
    assert ("fused" in fused.param_groups[0]) == (cls.__name__ in TORCHS or issubclass(cls, FromFactory))


@by_class
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_is_fused_too(cls, copied, ran):
    optimizer = copied(cls([torch.nn.Parameter(torch.ones(3))], fused=True))
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = torch.ones(3)
    optimizer.step()
    assert set(ran) == {"aten" if cls.__name__ in TORCHS else "compiled"}


@by_class
def test_flags_that_fused_excludes(cls):
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        cls([p], fused=True, differentiable=True)
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        cls([p], fused=True, foreach=True)
    q = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    q.grad = torch.ones_like(q)
    optimizer = cls([q], fused=True)
    with pytest.raises(RuntimeError, match="requires all the params to be floating point Tensors"):
        optimizer.step()
    assert torch.equal(q.detach(), torch.ones_like(q))


def other_memory(optimizer, params):
    params[0].data = params[0].data.clone()


def other_order(optimizer, params):
    params[1].data = params[1].data.t()


def other_dtype(optimizer, params):
    for p in params:
        p.data = p.data.double()


def other_size(optimizer, params):
    params[2].data = torch.ones(9)
    optimizer.state.pop(params[2], None)


def another_group(optimizer, params):
    params.append(torch.nn.Parameter(torch.ones(6)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.5})


def a_parameter_less(optimizer, params):
    optimizer.param_groups[0]["params"].pop(0)


def a_parameter_that_sits_out(optimizer, params):
    params[0].grad = None


def a_loaded_state(optimizer, params):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def another_tensor_in_the_state(optimizer, params):
    state = optimizer.state[params[0]]
    for name in state:
        state[name] = state[name] + 1


def a_tensor_written_to(optimizer, params):
    for value in optimizer.state[params[0]].values():
        value.mul_(2)


def a_state_begun_anew(optimizer, params):
    optimizer.state.pop(params[1], None)


def a_state_in_another_order(optimizer, params):
    state = optimizer.state[params[1]]
    for name in state:
        if state[name].dim():
            state[name] = state[name].t().contiguous().t()


def a_state_transposed_in_place(optimizer, params):
    for value in optimizer.state[params[1]].values():
        if value.dim():
            value.t_()


def a_state_in_other_memory(optimizer, params):
    for value in optimizer.state[params[1]].values():
        value.data = value.data.clone().mul_(2)


def another_step(optimizer, params):
    if "step" in optimizer.state[params[1]]:
        optimizer.state[params[1]]["step"].fill_(100)


def gradients_end_to_end(optimizer, params):
    whole = torch.linspace(-1, 1, sum(p.numel() for p in params))
    for p, part in zip(params, whole.split([p.numel() for p in params])):
        p.grad = part.view_as(p)


def other_hyperparameters(optimizer, params):
    optimizer.param_groups[0].update(lr=0.3, weight_decay=0.2)


CHANGES = [
    other_memory,
    other_order,
    other_dtype,
    other_size,
    another_group,
    a_parameter_less,
    a_parameter_that_sits_out,
    a_loaded_state,
    another_tensor_in_the_state,
    a_tensor_written_to,
    a_state_begun_anew,
    a_state_in_another_order,
    a_state_transposed_in_place,
    a_state_in_other_memory,
    another_step,
    gradients_end_to_end,
    other_hyperparameters,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("cls", [optim.RMSprop, optim.Adam, optim.SGD], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("fused", [None, True], ids=["default", "fused"])
def test_nothing_that_is_kept_between_steps_goes_stale(cls, change, fused):
    """After any change between two steps, the next ones are those of the reference, which caches nothing.

    Executors differ by ulps; what is stale would differ by the size of a step, 1e-2.
    """
    options = {"momentum": 0.9} if cls is optim.SGD else {}
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (5, 5), (3,), (20_000,)]]
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizer, reference = cls(params, lr=0.01, fused=fused, **options), cls(twins, lr=0.01, **options)
    for step in range(6):
        give_gradients(params, twins)
        if step == 3:
            change(optimizer, params)
            change(reference, twins)
            if change not in (a_parameter_that_sits_out, gradients_end_to_end):
                give_gradients(params, twins)
        optimizer.step()
        with fx.execution.use("eager"):
            reference.step()
    for p, twin in zip(params, twins):
        torch.testing.assert_close(p, twin, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [None, True], ids=["default", "fused"])
def test_a_chain_as_an_optimizer(fused, ran):
    """One pass over the parameters, which leaves the gradients alone; to the ulps of a few steps."""
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.add_decayed_weights(0.1), fx.scale_by_adam(), fx.scale_by_lr(0.1))
    params = some_params()
    twins = [p.detach().clone() for p in params]
    optimizer, state = optim.TransformOptimizer(params, tx, fused=fused), tx.init(twins)
    for _ in range(3):
        give_gradients(params)
        kept = [p.grad.clone() for p in params]
        ran.clear()
        optimizer.step()
        assert ran == ["compiled" if fused else "blocked"]
        assert all(torch.equal(p.grad, grad) for p, grad in zip(params, kept))
        with fx.execution.use("eager"):
            twins, state = fx.step(tx, kept, state, twins)
        torch.testing.assert_close([p.detach() for p in params], twins, rtol=1e-5, atol=1e-6)
