"""Schedulers of schedulers, and the one that follows a metric, beside those of torch.optim.lr_scheduler."""

import copy
import functools
import inspect
import pickle

import pytest
import torch
import torch.optim.lr_scheduler as theirs
from hypothesis import given
from hypothesis import strategies as st
from schedulers import (
    LRS,
    MAKERS,
    Halving,
    advance,
    assert_same,
    grown,
    make_optimizer,
    messages,
    near,
    numbers,
    slower,
)

import optimfx.optim.lr_scheduler as ours


def step_lr(m, o):
    return m.StepLR(o, 2, 0.5)


SEQUENCES = {
    "warmup": (lambda m, o: [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, 20)], [5]),
    "no warmup": (lambda m, o: [m.LinearLR(o, total_iters=0), m.CosineAnnealingLR(o, 20)], [0]),
    "three": (lambda m, o: [m.ConstantLR(o, 0.1, 4), m.ExponentialLR(o, 0.9), step_lr(m, o)], [4, 11]),
    "restarts": (lambda m, o: [m.LambdaLR(o, slower), m.CosineAnnealingWarmRestarts(o, 3, 2)], [6]),
    "a chain first": (
        lambda m, o: [
            m.ChainedScheduler([m.LinearLR(o, 0.1), m.ExponentialLR(o, 0.9), m.PolynomialLR(o, 9)]),
            m.MultiStepLR(o, [2, 3]),
        ],
        [7],
    ),
    "a sequence first": (
        lambda m, o: [m.SequentialLR(o, [m.ConstantLR(o), step_lr(m, o)], [3]), m.ExponentialLR(o, 0.9)],
        [8],
    ),
}
CHAINS = {
    "two": lambda m, o: [m.ConstantLR(o, 0.1, 4), m.ExponentialLR(o, 0.9)],
    "many": lambda m, o: [m.LinearLR(o), step_lr(m, o), m.MultiplicativeLR(o, Halving(5)), m.CosineAnnealingLR(o, 9)],
    "a sequence": lambda m, o: [m.SequentialLR(o, [m.ConstantLR(o), step_lr(m, o)], [3]), m.ExponentialLR(o, 0.9)],
}
MIXES = [(theirs, ours), (ours, theirs), (ours, ours)]
mixes = pytest.mark.parametrize("outer, inner", MIXES, ids=["torch of ours", "ours of torch", "ours"])


def sequence(outer, inner, name, optimizer):
    make, milestones = SEQUENCES[name]
    return outer.SequentialLR(optimizer, make(inner, optimizer), milestones)


def chain(outer, inner, name, optimizer):
    return outer.ChainedScheduler(CHAINS[name](inner, optimizer))


COMPOSITIONS = {
    f"{make.__name__}, {name}": functools.partial(make, name=name)
    for make, names in ((sequence, SEQUENCES), (chain, CHAINS))
    for name in names
}
every_composition = pytest.mark.parametrize("make", COMPOSITIONS.values(), ids=COMPOSITIONS)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@mixes
@every_composition
def test_composed_schedulers_equal_torch(make, outer, inner):
    expected = make(theirs, theirs, optimizer=make_optimizer())
    scheduler = make(outer, inner, optimizer=make_optimizer())
    for _ in range(30):
        assert_same(expected, scheduler, exact=False)
        advance(expected, scheduler)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("into_ours", [True, False])
@every_composition
def test_checkpoints_of_compositions(make, into_ours):
    source, target = (make(m, m, optimizer=make_optimizer()) for m in ((theirs, ours) if into_ours else (ours, theirs)))
    for _ in range(9):
        advance(source)
    saved = copy.deepcopy((source.state_dict(), source.optimizer.state_dict()))
    given = copy.deepcopy(saved[0])
    target.load_state_dict(given)
    assert given.keys() == saved[0].keys()
    target.optimizer.load_state_dict(saved[1])
    assert target.state_dict().keys() == source.state_dict().keys()
    for _ in range(15):
        advance(source, target)
        assert_same(source, target, exact=False)


RESUMABLE = [name for name in SEQUENCES if name != "a sequence first"]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("last_epoch", [0, 2, 4, 7, 20])
@pytest.mark.parametrize("parts", [theirs, ours], ids=["of torch", "ours"])
@pytest.mark.parametrize("name", RESUMABLE)
def test_a_sequence_resumed_at_an_epoch_is_one_that_was_not_interrupted(name, parts, last_epoch):
    """torch begins with the first part's first rate, whatever the epoch."""
    whole = sequence(ours, parts, name, make_optimizer())
    for _ in range(last_epoch + 1):
        advance(whole)
    optimizer = make_optimizer()
    make, milestones = SEQUENCES[name]
    made = make(parts, optimizer)
    resumed = ours.SequentialLR(optimizer, made, milestones, last_epoch=last_epoch)
    for _ in range(12):
        assert numbers(group["lr"] for group in optimizer.param_groups) == near(whole.get_last_lr())
        assert numbers(resumed.get_last_lr()) == near(whole.get_last_lr())
        epochs = [[getattr(part, "last_epoch", None) for part in each._schedulers] for each in (whole, resumed)]
        assert epochs[0] == epochs[1]
        advance(whole, resumed)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("order", ["make, load", "make, load the scheduler first", "load the optimizer, make, load"])
@pytest.mark.parametrize("kind", [*COMPOSITIONS, *MAKERS])
def test_rates_after_loading_are_those_of_a_run_that_was_not_interrupted(kind, order):
    """In whichever order the optimizer is loaded, and the scheduler is made and loaded."""
    composed = kind in COMPOSITIONS

    def make(optimizer):
        return COMPOSITIONS[kind](ours, ours, optimizer=optimizer) if composed else MAKERS[kind](ours, optimizer)

    whole = make(make_optimizer())
    for _ in range(9):
        advance(whole)
    saved = copy.deepcopy((whole.optimizer.state_dict(), whole.state_dict()))
    optimizer = make_optimizer()
    if order.startswith("load"):
        optimizer.load_state_dict(saved[0])
    resumed = make(optimizer)
    for part in {"make, load": (0, 1), "make, load the scheduler first": (1, 0)}.get(order, (1,)):
        (resumed if part else optimizer).load_state_dict(saved[part])
    for _ in range(5):
        assert_same(whole, resumed)
        advance(whole, resumed)


def test_a_rate_that_was_set_by_hand_is_loaded():
    """The optimizer's rate counts, where it is not the one that the scheduler wrote last."""
    whole = ours.StepLR(make_optimizer(), 2)
    advance(whole)
    whole.optimizer.param_groups[0]["lr"] = 0.123
    resumed = ours.StepLR(make_optimizer(), 2)
    resumed.optimizer.load_state_dict(whole.optimizer.state_dict())
    resumed.load_state_dict(whole.state_dict())
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.123, LRS[1]]


@pytest.mark.parametrize("outer, inner", [(ours, theirs), (theirs, ours)], ids=["ours of torch's", "torch's of ours"])
def test_compositions_refuse_the_plateau_of_the_other(outer, inner):
    optimizer = make_optimizer()
    for compose in (outer.ChainedScheduler, lambda parts: outer.SequentialLR(optimizer, parts, [])):
        with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau`"):
            compose([inner.ReduceLROnPlateau(optimizer)])


def test_a_sequence_takes_its_start_from_the_initial_rates():
    optimizer = make_optimizer()
    parts = [ours.ConstantLR(optimizer, 0.1, 4), ours.ExponentialLR(optimizer, 0.9)]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LRS[0] * 0.1)
    scheduler = ours.SequentialLR(optimizer, parts, [4])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LRS[0] * 0.1)
    assert [part.last_epoch for part in parts] == [0, -1]
    assert scheduler.get_last_lr() == parts[0].get_last_lr()


# ReduceLROnPlateau


METRICS = st.lists(st.floats(-10, 10), min_size=1, max_size=40)


@given(
    METRICS,
    st.sampled_from(["min", "max"]),
    st.sampled_from(["rel", "abs"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0, 0.02, [0.01, 0.3]]),
    st.sampled_from([1e-8, 0.03]),
)
def test_plateau_equals_torch(metrics, mode, threshold_mode, patience, cooldown, min_lr, eps):
    expected, scheduler = (
        m.ReduceLROnPlateau(make_optimizer(), mode, 0.5, patience, 0.1, threshold_mode, cooldown, min_lr, eps)
        for m in (theirs, ours)
    )
    for metric in metrics:
        for s in (expected, scheduler):
            s.step(metric)
        assert_same(expected, scheduler)
        assert scheduler.state_dict() == expected.state_dict()
        assert scheduler.in_cooldown == expected.in_cooldown


def test_a_trainer_recognises_the_plateau():
    """As trainers do it: what is a plateau is stepped with the metric. But for its type, nothing of it is torch's."""
    optimizer = make_optimizer()
    schedulers = [ours.ReduceLROnPlateau(optimizer, patience=0, factor=0.5), ours.StepLR(optimizer, 100)]
    for metric in (1.0, 1.0):
        optimizer.step()
        for scheduler in schedulers:
            assert isinstance(scheduler, theirs.LRScheduler)
            scheduler.step(*([metric] if isinstance(scheduler, theirs.ReduceLROnPlateau) else []))
    assert [group["lr"] for group in optimizer.param_groups] == [lr / 2 for lr in LRS]
    shared = {
        name
        for name, value in vars(theirs.ReduceLROnPlateau).items()
        if inspect.isfunction(value) and getattr(ours.ReduceLROnPlateau, name) is value
    }
    assert shared == set()


def test_plateau_with_tensors():
    lrs = [torch.tensor(lr, dtype=torch.float64) for lr in LRS]
    scheduler = ours.ReduceLROnPlateau(make_optimizer(lrs=lrs), patience=0)
    for metric in (torch.tensor(1.0), torch.tensor(2.0)):
        scheduler.step(metric)
    assert type(scheduler.best) is float
    assert [group["lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([lr * 0.1 for lr in LRS])
    assert all(group["lr"] is lr for group, lr in zip(scheduler.optimizer.param_groups, lrs))
    assert not any(last is lr for last, lr in zip(scheduler.get_last_lr(), lrs))


@pytest.mark.parametrize("into_ours", [True, False])
def test_plateau_checkpoints_go_both_ways(into_ours):
    modules = (theirs, ours) if into_ours else (ours, theirs)
    source = modules[0].ReduceLROnPlateau(make_optimizer(), "max", patience=1, cooldown=2)
    target = modules[1].ReduceLROnPlateau(make_optimizer())
    for metric in (1.0, 0.5, 0.4):
        source.step(metric)
    target.load_state_dict(pickle.loads(pickle.dumps(source.state_dict())))
    target.optimizer.load_state_dict(source.optimizer.state_dict())
    for metric in (0.3, 0.2, 2.0, 1.0, 1.0, 1.0):
        source.step(metric)
        target.step(metric)
        assert target.state_dict() == source.state_dict()
        assert_same(source, target)


def test_plateau_at_an_epoch_warns():
    scheduler = ours.ReduceLROnPlateau(make_optimizer())
    with pytest.warns(UserWarning) as record:
        scheduler.step(1.0, 7)
    assert messages(record) == [ours.EPOCH_DEPRECATION_WARNING]
    assert scheduler.last_epoch == 7


def test_plateau_follows_a_new_group_with_one_min_lr():
    expected, scheduler = (
        grown(m.ReduceLROnPlateau(make_optimizer(), patience=0, min_lr=0.1), 1.0) for m in (theirs, ours)
    )
    assert_same(expected, scheduler)
    assert scheduler.min_lrs == [0.1] * 3
