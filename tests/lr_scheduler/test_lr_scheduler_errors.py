"""Warnings and errors of the schedulers, in the words of torch.optim.lr_scheduler."""

import warnings

import pytest
import torch
import torch.optim.lr_scheduler as theirs
from schedulers import (
    advance,
    every_maker,
    grown,
    make_optimizer,
    messages,
    near,
    pair,
    slower,
)

import optimfx as fx
import optimfx.optim.lr_scheduler as ours


def test_warns_of_a_wrong_order_once():
    recorded = []
    for module in (theirs, ours):
        scheduler = module.StepLR(make_optimizer(), 3)
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            for _ in range(4):
                scheduler.step()
        recorded.append(messages(record))
    assert recorded[0] == recorded[1]
    assert len(recorded[1]) == 1 and "before `optimizer.step()`" in recorded[1][0]


def test_warns_of_a_step_that_was_replaced():
    recorded = []
    for module in (theirs, ours):
        scheduler = module.StepLR(make_optimizer(), 3)
        scheduler.optimizer.step = lambda: None
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            scheduler.step()
        recorded.append(messages(record))
    assert recorded[0] == recorded[1]
    assert "has been overridden" in recorded[1][0]


@every_maker
def test_get_lr_outside_of_step_warns(name):
    expected, scheduler = pair(name)
    for _ in range(3):
        advance(expected, scheduler)
    values = []
    for s in (expected, scheduler):
        with pytest.warns(UserWarning, match="please use `get_last_lr\\(\\)`") as record:
            values.append(s.get_lr())
        assert len(record) == 1
    assert record[0].filename == __file__
    assert values[1] == near(values[0])


# Errors: each call on a module and an optimizer, with two groups and momentum.

ERRORS = {
    "not an optimizer": lambda m, o: m.StepLR(3, 3),
    "not an optimizer, plateau": lambda m, o: m.ReduceLROnPlateau(3),
    "not an optimizer, cyclic": lambda m, o: m.CyclicLR(3, 0.1, 0.2),
    "not an optimizer, one cycle": lambda m, o: m.OneCycleLR(3, 0.1, 10),
    "lambdas": lambda m, o: m.LambdaLR(o, [slower]),
    "multiplicative lambdas": lambda m, o: m.MultiplicativeLR(o, [slower] * 3),
    "lambda": lambda m, o: m.MultiplicativeLR(o, 0.5),
    "constant factor": lambda m, o: m.ConstantLR(o, 1.1),
    "negative constant factor": lambda m, o: m.ConstantLR(o, -0.1),
    "start_factor": lambda m, o: m.LinearLR(o, 0.0),
    "large start_factor": lambda m, o: m.LinearLR(o, 1.5),
    "end_factor": lambda m, o: m.LinearLR(o, end_factor=-1),
    "large end_factor": lambda m, o: m.LinearLR(o, end_factor=1.5),
    "no way back": lambda m, o: [s := m.ConstantLR(o, 0.0, 1), advance(s)],
    "no sequence": lambda m, o: m.SequentialLR(o, [], []),
    "no chain": lambda m, o: m.ChainedScheduler([]),
    "milestones": lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1)], [1]),
    "no optimizer": lambda m, o: m.SequentialLR(o, [3], []),
    "no optimizer in a chain": lambda m, o: m.ChainedScheduler([3], o),
    "plateau in a sequence": lambda m, o: m.SequentialLR(o, [m.ReduceLROnPlateau(o)], []),
    "plateau in a chain": lambda m, o: m.ChainedScheduler([m.ReduceLROnPlateau(o)]),
    "another optimizer": lambda m, o: m.SequentialLR(o, [m.StepLR(make_optimizer(), 1)], []),
    "another optimizer in a chain": lambda m, o: m.ChainedScheduler([m.StepLR(make_optimizer(), 1)], o),
    "plateau factor": lambda m, o: m.ReduceLROnPlateau(o, factor=1.0),
    "plateau mode": lambda m, o: m.ReduceLROnPlateau(o, "middle"),
    "plateau threshold_mode": lambda m, o: m.ReduceLROnPlateau(o, threshold_mode="x"),
    "plateau min_lr": lambda m, o: m.ReduceLROnPlateau(o, min_lr=[0.1]),
    "cyclic mode": lambda m, o: m.CyclicLR(o, 0.1, 0.2, mode="square"),
    "cyclic base_lr": lambda m, o: m.CyclicLR(o, [0.1], 0.2),
    "cyclic max_lr": lambda m, o: m.CyclicLR(o, 0.1, [0.2]),
    "cyclic momentum": lambda m, o: m.CyclicLR(make_optimizer(torch.optim.Adagrad), 0.1, 0.2),
    "cyclic base_momentum": lambda m, o: m.CyclicLR(o, 0.1, 0.2, base_momentum=[0.1]),
    "restarts T_0": lambda m, o: m.CosineAnnealingWarmRestarts(o, 0),
    "restarts fractional T_0": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1.5),
    "restarts T_mult": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, 0),
    "restarts eta_min": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, eta_min=torch.tensor(0.1)),
    "restarts epoch": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1).step(-2),
    "no length": lambda m, o: m.OneCycleLR(o, 0.1, epochs=3),
    "total_steps": lambda m, o: m.OneCycleLR(o, 0.1, 0),
    "fractional total_steps": lambda m, o: m.OneCycleLR(o, 0.1, 2.5),
    "epochs": lambda m, o: m.OneCycleLR(o, 0.1, epochs=-1, steps_per_epoch=1),
    "steps_per_epoch": lambda m, o: m.OneCycleLR(o, 0.1, epochs=1, steps_per_epoch=0),
    "pct_start": lambda m, o: m.OneCycleLR(o, 0.1, 10, pct_start=1.1),
    "integer pct_start": lambda m, o: m.OneCycleLR(o, 0.1, 10, pct_start=1),
    "anneal_strategy": lambda m, o: m.OneCycleLR(o, 0.1, 10, anneal_strategy="x"),
    "one cycle max_lr": lambda m, o: m.OneCycleLR(o, [0.1], 10),
    "one cycle momentum": lambda m, o: m.OneCycleLR(make_optimizer(torch.optim.Adagrad), 0.1, 10),
    "one cycle max_momentum": lambda m, o: m.OneCycleLR(o, 0.1, 10, max_momentum=[0.1] * 3),
    "after one cycle": lambda m, o: [s := m.OneCycleLR(o, 0.1, 3)] + [advance(s) for _ in range(4)],
    "no get_lr": lambda m, o: m.LRScheduler(o),
    "a new group in LambdaLR": lambda m, o: grown(m.LambdaLR(o, slower)),
    "a new group in CyclicLR": lambda m, o: grown(m.CyclicLR(o, 0.1, 0.2)),
    "a new group under min_lrs": lambda m, o: grown(m.ReduceLROnPlateau(o, min_lr=[0.1, 0.2], patience=0), 1.0),
}


def test_a_cycle_cannot_go_down_in_fewer_than_no_steps():
    with pytest.raises(ValueError, match="step_size_down must not be negative; got -1"):
        fx.schedules.cyclic(0.1, 0.2, 3, -1)


@pytest.mark.parametrize("case", ERRORS)
def test_schedulers_refuse_bad_arguments(case):
    errors = []
    for module in (theirs, ours):
        with pytest.raises(Exception) as error:
            ERRORS[case](module, make_optimizer())
        errors.append((type(error.value), str(error.value)))
    assert errors[1] == errors[0]
