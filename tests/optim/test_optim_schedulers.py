"""Schedulers on every optimizer: torch's and ours, which say and write the same."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from classes import CLASSES, DB, EVERY, assert_same_value, by_class, give_gradients, some_params, take_step

import optimfx.optim as optim
from optimfx.optim.classes.injected import Injected

both = pytest.mark.parametrize("schedulers", [torch.optim.lr_scheduler, optim.lr_scheduler], ids=["torch's", "ours"])


def made(info, cls=None, **options):
    params = some_params(info)
    return params, (cls or CLASSES[info.optim_cls])(params, **options)


def stepped(info, optimizer, params):
    give_gradients(info, params)
    take_step(info, optimizer, params)


def warned(steps):
    """The texts of the warnings."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        steps()
    return [str(warning.message) for warning in record]


@by_class()
@both
def test_a_tensor_rate_is_written_in_place_and_used(info, schedulers):
    """The scheduler and the group keep copies beside it; the steps are those with the numbers."""
    lr = torch.tensor(0.125, dtype=torch.float64)
    params, optimizer = made(info, lr=lr)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    by_hand = CLASSES[info.optim_cls](others, lr=0.125)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    for i in range(3):
        give_gradients(info, params, others)
        take_step(info, optimizer, params)
        take_step(info, by_hand, others)
        scheduler.step()
        by_hand.param_groups[0]["lr"] = 0.125 / 2 ** (i + 1)
    assert optimizer.param_groups[0]["lr"] is lr and lr == 0.125 / 8
    kept = [optimizer.param_groups[0]["initial_lr"], *scheduler.get_last_lr(), *scheduler.base_lrs]
    assert not any(value is lr for value in [*kept, *scheduler.state_dict()["_last_lr"]])
    assert_same_value([p.detach() for p in params], [p.detach() for p in others], rtol=0, atol=0)


@by_class()
@both
def test_a_wrong_order_is_warned_of_once(info, schedulers):
    """Not a right one, nor one that is resumed; as on torch's optimizer, which counts its steps in the same way."""

    def said(cls):
        params, optimizer = made(info, cls)
        scheduler = schedulers.ExponentialLR(optimizer, 0.5)
        wrong = warned(lambda: [scheduler.step() for _ in range(3)])
        params, optimizer = made(info, cls)
        scheduler = schedulers.ExponentialLR(optimizer, 0.5)
        right = warned(lambda: [(stepped(info, optimizer, params), scheduler.step()) for _ in range(3)])
        assert optimizer._opt_called
        resumed = schedulers.ExponentialLR(optimizer, 0.5, last_epoch=3)
        return wrong, right, warned(resumed.step)

    ours = said(CLASSES[info.optim_cls])
    assert ours == said(info.optim_cls)
    assert len(ours[0]) == 1 and "before `optimizer.step()`" in ours[0][0] and ours[1:] == ([], [])


@by_class()
@both
def test_a_step_that_is_replaced_is_warned_of(info, schedulers):
    _, optimizer = made(info)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    optimizer.step = lambda: None
    (text,) = warned(scheduler.step)
    assert "`optimizer.step()` has been overridden" in text


@by_class()
@both
def test_a_scheduled_optimizer_is_freed_at_once(info, schedulers):
    """Its step is wrapped without a reference to it, and what it remembers of a step has none."""
    params, optimizer = made(info)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    stepped(info, optimizer, params)
    scheduler.step()
    freed = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer, scheduler
        assert freed() is None
    finally:
        gc.enable()


@by_class()
@both
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_both_goes_on(info, schedulers, how):
    params, optimizer = made(info)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    stepped(info, optimizer, params)
    scheduler.step()
    others, other, its = how((params, optimizer, scheduler))
    assert its.optimizer is other
    for _ in range(2):
        give_gradients(info, params, others)
        take_step(info, optimizer, params)
        take_step(info, other, others)
        scheduler.step()
        its.step()
    assert_same_value([p.detach() for p in params], [p.detach() for p in others], rtol=0, atol=0)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["initial_lr"] / 8


CYCLES = {
    "CyclicLR": lambda module, optimizer: module.CyclicLR(optimizer, 0.001, 0.1, 3),
    "OneCycleLR": lambda module, optimizer: module.OneCycleLR(optimizer, 0.1, 10),
}


@by_class()
@pytest.mark.parametrize("name", CYCLES)
def test_momentum_is_cycled_where_there_is_one(info, name):
    """Or the first of the betas, whatever others there are; optimizers without either are refused."""
    runs = []
    for module in (torch.optim.lr_scheduler, optim.lr_scheduler):
        params, optimizer = made(info)
        torch.manual_seed(0)
        if not {"momentum", "betas"} & set(optimizer.defaults):
            with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
                CYCLES[name](module, optimizer)
            continue
        scheduler, seen = CYCLES[name](module, optimizer), []
        for _ in range(8):
            stepped(info, optimizer, params)
            scheduler.step()
            seen.append([optimizer.param_groups[0].get(key) for key in ("lr", "momentum", "betas")])
            assert len(seen[-1][2] or ()) == len(optimizer.defaults.get("betas", ()))
        runs.append(seen)
    assert not runs or runs[0] == runs[1]
    assert not runs or len({row[2][0] if row[2] else row[1] for row in runs[1]}) > 3


@by_class(DB)
def test_a_scheduled_run_is_torchs(info):
    """Warm-up and cosine: ours on our optimizer beside torch's on torch's."""
    runs = []
    for module, cls in ((torch.optim, info.optim_cls), (optim, CLASSES[info.optim_cls])):
        torch.manual_seed(0)
        params, optimizer = made(info, cls)
        schedulers = module.lr_scheduler
        parts = [schedulers.LinearLR(optimizer, 0.5, total_iters=3), schedulers.CosineAnnealingLR(optimizer, 5)]
        scheduler = schedulers.SequentialLR(optimizer, parts, [3])
        for _ in range(8):
            stepped(info, optimizer, params)
            scheduler.step()
        runs.append(([p.detach() for p in params], scheduler.get_last_lr()[0]))
    assert_same_value(runs[0][0], runs[1][0], rtol=1e-5, atol=1e-6)
    assert runs[1][1] == pytest.approx(runs[0][1])


def test_every_class_is_scheduled():
    """The table, to which this file owes its optimizers, has all of them, but those of test_optim_injected.py."""
    names = {CLASSES[info.optim_cls].__name__ for info in EVERY}
    elsewhere = {"Optimizer", "TransformOptimizer", *[cls.__name__ for cls in Injected.__subclasses__()]}
    assert names == {name for name in optim.__all__ if name[0].isupper()} - elsewhere
