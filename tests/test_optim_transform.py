"""Any transformation as an optimizer, and any optimizer as a transformation."""

import copy
import io
import pickle

import pytest
import torch
from test_optim_classes import CLASSES, DB, assert_same_value, give_gradients, parameters, take_step
from test_optim_state import richest, run
from trees import assert_equal, clone

import optimfx as fx
import optimfx.optim as optim

TRANSFORMS = {
    "one rule": fx.adamw(lr=0.1),
    "a chain": fx.chain(fx.clip_by_global_norm(1.0), fx.scale_by_adam(), fx.scale_by_lr(0.1)),
    "injected": fx.chain(fx.clip_by_value(0.5), fx.inject_hyperparams(fx.adamw)(lr=0.1, betas=(0.8, 0.9))),
    "a partition": fx.partition({True: fx.muon(ns_dtype=None), False: fx.adamw()}, fx.is_matrix),
    "a schedule": fx.inject_hyperparams(fx.sgd)(lr=lambda step: 0.1 / (step + 1), momentum=0.9),
}
each = pytest.mark.parametrize("tx", TRANSFORMS.values(), ids=TRANSFORMS.keys())


def some_params():
    return [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (3,), (2, 1, 2)]]


def gradients(params, step):
    torch.manual_seed(step)
    for i, p in enumerate(params):
        p.grad = None if (step, i) == (1, 1) else torch.randn_like(p)


@each
def test_a_transform_optimizer_is_the_transformation(tx):
    """A parameter without a gradient sits out; and the gradients are left as they are."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, tx)
    pure = [p.detach().clone() for p in params]
    state = tx.init(pure)
    for i in range(4):
        gradients(params, i)
        given = [p.grad for p in params]
        kept = [None if g is None else g.clone() for g in given]
        with fx.execution.use("blocked", "eager"):
            optimizer.step()
            pure, state = fx.step(tx, kept, state, pure)
        assert all((a is b) for a, b in zip(given, [p.grad for p in params]))
        assert_equal(given, kept)
        assert_equal([p.detach() for p in params], pure)
    assert_equal(optimizer.state_of(), state)


@each
def test_its_checkpoint_goes_on(tx):
    """Through a file and the safe loader; copies too."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, tx)
    for i in range(3):
        gradients(params, i)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    moved_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    moved = optim.TransformOptimizer(moved_params, tx)
    moved.load_state_dict(torch.load(file, weights_only=True))
    for i in range(3, 5):
        gradients(params, i)
        gradients(moved_params, i)
        optimizer.step()
        moved.step()
    assert_equal([p.detach() for p in moved_params], [p.detach() for p in params])
    assert_same_value(optimizer.state_dict(), moved.state_dict(), rtol=0, atol=0)


def test_a_scheduler_drives_an_injected_lr_and_a_group_overrides_it():
    tx = fx.inject_hyperparams(fx.sgd)(lr=1.0)
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = optim.TransformOptimizer([{"params": [a]}, {"params": [b], "lr": 0.1}], tx)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(2):
        a.grad, b.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert_equal([a.detach(), b.detach()], [torch.tensor([-1.5]), torch.tensor([-0.15])], rtol=1e-6, atol=0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.025]


def test_the_value_of_a_schedule_is_shown():
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = optim.TransformOptimizer([p], fx.inject_hyperparams(fx.sgd)(lr=lambda step: 0.5**step))
    for expected in (1.0, 0.5, 0.25):
        p.grad = torch.ones(1)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == expected


def test_hooks_closure_and_copies():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = optim.TransformOptimizer([("weight", p)], fx.adam())
    seen = []
    optimizer.register_step_post_hook(lambda *args: seen.append(1))

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1.0
    assert seen == [1]
    assert optimizer.param_groups[0]["param_names"] == ["weight"]
    twin = copy.deepcopy(optimizer)
    twin.param_groups[0]["params"][0].grad = torch.ones(1)
    twin.step()
    assert not torch.equal(twin.param_groups[0]["params"][0], p)
    assert isinstance(optimizer, torch.optim.Optimizer)


@pytest.mark.parametrize("info", [i for i in DB if not i.step_requires_closure], ids=lambda i: i.optim_cls.__name__)
@pytest.mark.parametrize("whose", ["torch's", "ours"])
@pytest.mark.parametrize("groups", [1, 2])
def test_as_transformation_goes_on(info, whose, groups):
    """Three more steps of the pure transformation are three more of the optimizer, which shares nothing with it."""
    cls, options = info.optim_cls if whose == "torch's" else CLASSES[info.optim_cls], richest(info)
    shapes = [(4, 3), (2, 3)] if info.only_supports_sparse_grads else [p.shape for p in parameters(info)[:2]]
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    given = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(params)] if groups == 2 else params
    optimizer = cls(given, **copy.deepcopy(options))
    run(info, optimizer, params, 3)
    tx, state = fx.optim.as_transformation(optimizer)
    kept, pure = clone(state), [p.detach().clone() for p in params]
    for i in range(3):
        torch.manual_seed(10 + i)
        give_gradients(info, params)
        grads = [p.grad.clone() for p in params]
        take_step(info, optimizer, params)
        assert_equal(state, kept)
        pure, state = fx.step(tx, grads, state, pure)
        kept = clone(state)
    assert_equal(pure, [p.detach() for p in params], rtol=1e-6, atol=1e-6)


def test_as_transformation_of_lbfgs():
    p = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def rosenbrock(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    optimizer = torch.optim.LBFGS([p], max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = rosenbrock(p)
        loss.backward()
        return loss

    optimizer.step(closure)
    tx, state = fx.optim.as_transformation(optimizer)
    pure = [p.detach().clone()]
    for _ in range(3):
        optimizer.step(closure)
        pure, state = fx.step(
            tx,
            None,
            state,
            pure,
            value_and_grad_fn=lambda x: torch.func.grad_and_value(lambda x: rosenbrock(x[0]))(x)[::-1],
        )
    assert_equal(pure[0], p.detach(), rtol=1e-9, atol=1e-9)


def test_an_unknown_class_is_refused():
    class Mine(torch.optim.SGD):
        pass

    with pytest.raises(TypeError, match="there is no pure algorithm for a Mine"):
        fx.optim.as_transformation(Mine([torch.nn.Parameter(torch.ones(1))]))
    assert pickle.dumps(fx.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
