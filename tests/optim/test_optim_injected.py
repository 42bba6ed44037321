"""Classes whose numbers are injected: steps of the pure algorithm, with groups, schedulers and checkpoints."""

import copy
import inspect
import pickle

import pytest
import torch
from trees import assert_equal

import optimfx as fx
from optimfx.optim.classes.injected import Injected

CLASSES = {cls.__name__: cls for cls in Injected.__subclasses__()}
OPTIONS = {"MADGRAD": {"lr": 0.1}, "Prodigy": {"estim_lr0": 0.1}, "DAdaptAdamW": {"estim_lr0": 0.1}}


def classes(function):
    return pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)(function)


def model_of():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (3,), ()]]


def loss_of(params):
    return sum(((p - 1) ** 2).sum() for p in params)


def train(optimizer, params, steps, scheduler=None):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        if scheduler:
            scheduler.step()
    return [p.detach().clone() for p in params]


def test_they_are_public():
    assert all(getattr(fx.optim, name) is cls for name, cls in CLASSES.items())


@classes
def test_steps_as_the_pure_algorithm(cls):
    options = OPTIONS.get(cls.__name__, {})
    params = model_of()
    found = train(cls(params, **options), params, 4)
    tx, pure = cls.make(**options), [p.detach() for p in model_of()]
    state = tx.init(pure)
    for _ in range(4):
        value, grads = loss_of(pure), [2 * (p - 1) for p in pure]
        pure, state = fx.step(tx, grads, state, pure, value=value)
    # A term that is switched off for the function, a decay of 0, is multiplied by 0 in the class.
    assert_equal(found, pure, rtol=1e-6, atol=1e-6)


@classes
def test_signature_groups_and_copies(cls):
    pure = list(inspect.signature(cls.make).parameters)
    assert list(inspect.signature(cls).parameters) == ["params", *pure, "fused"]
    first, params = pure[0], model_of()
    with pytest.raises(ValueError, match=rf"{first} must be in \[0, inf\); got -1"):
        cls(params, -1.0)
    with pytest.raises(TypeError, match="Classes take numbers"):
        cls(params, lambda step: 0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        cls(params, rate=1.0)
    optimizer = cls(params, 0.5)
    assert optimizer.param_groups[0][first] == 0.5
    train(optimizer, params, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert repr(twin) == repr(optimizer) and "tx: inject_hyperparams(" in repr(twin)


@classes
def test_a_run_resumed_equals_one_uninterrupted(cls):
    options, params = OPTIONS.get(cls.__name__, {}), model_of()
    optimizer = cls(params, **options)
    train(optimizer, params, 2)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = cls(others, **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_equal(train(resumed, others, 2), train(optimizer, params, 2))


@classes
def test_schedulers_and_groups_reach_the_numbers(cls):
    """Two groups that differ are two optimizers; what is 0 by default may be set in one."""
    first = next(iter(inspect.signature(cls.make).parameters))
    decays = {"weight_decay": 0.3} if "weight_decay" in inspect.signature(cls.make).parameters else {}
    params, alone = model_of(), model_of()
    groups = [{"params": params[:1], first: 0.05}, {"params": params[1:], first: 0.02, **decays}]
    together = cls(groups)
    apart = [cls(alone[:1], 0.05), cls(alone[1:], 0.02, **decays)]
    for _ in range(3):
        for p, q in zip(params, alone):
            p.grad, q.grad = 2 * p.detach(), 2 * q.detach()
        for optimizer in (together, *apart):
            optimizer.step(lambda: torch.tensor(3.0))
            for group in optimizer.param_groups:
                group[first] *= 0.5
    assert_equal([p.detach() for p in params], [p.detach() for p in alone], rtol=1e-6, atol=1e-6)


def test_a_scheduler_drives_prodigy():
    params = model_of()
    optimizer = fx.optim.Prodigy(params, estim_lr0=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    train(optimizer, params, 40, scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)
    assert loss_of(params) < loss_of(model_of()) / 10
