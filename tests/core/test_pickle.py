"""Transformations, schedules and states go to other processes."""

import multiprocessing
import pickle

import pytest
import torch
from catalogue import ALGORITHMS, LINKS
from trees import assert_equal, random_like

import optimfx as fx
from optimfx import optim


def by_name(params):
    return {name: p.dim() > 1 for name, p in params.items()}


COMPOSED = {
    "chain": fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=fx.schedules.warmup_cosine(0.1, 2, 9))),
    "named chain": fx.named_chain(("clip", fx.clip_by_value(1.0)), ("adam", fx.adam()), ("none", fx.identity())),
    "partition": fx.partition({True: fx.muon(), False: fx.adamw()}, fx.is_matrix),
    "mask": fx.masked(fx.add_decayed_weights(0.1), by_name),
    "multi-steps": fx.multi_steps(fx.sgd(lr=fx.schedules.one_cycle(0.1, 10)), 2),
    "injected": fx.inject_hyperparams(fx.adam)(lr=fx.schedules.linear(0.1)),
}


def assert_same_steps(one, other):
    params = {"w": torch.randn(3, 2), "b": torch.randn(2)}
    states = [one.init(params), pickle.loads(pickle.dumps(other.init(params)))]
    for _ in range(3):
        grads = random_like(params)
        results = [fx.step(tx, grads, state, params) for tx, state in zip((one, other), states)]
        assert_equal(*results)
        params, states = results[0][0], [state for _, state in results]


@pytest.mark.parametrize("row", ALGORITHMS + LINKS, ids=lambda row: row.name)
def test_an_algorithm_or_a_link(row):
    tx = row(**row.richest)
    again = pickle.loads(pickle.dumps(tx))
    assert repr(again) == repr(tx)
    assert getattr(again.update, "rule", None) is getattr(tx.update, "rule", None)


@pytest.mark.parametrize("tx", COMPOSED.values(), ids=COMPOSED.keys())
def test_compositions_pickle(tx):
    again = pickle.loads(pickle.dumps(tx))
    assert repr(again) == repr(tx)
    assert_same_steps(tx, again)


@pytest.mark.parametrize("name", sorted({*fx.schedules.__all__} - {"lambda_schedule", "multiplicative", "join"}))
def test_schedules_pickle(name):
    options = {"multi_step": {"milestones": [2]}, "exponential": {"gamma": 0.9}, "cosine_annealing": {"T_max": 9}}
    options |= {"step_decay": {"step_size": 2}, "cosine_annealing_warm_restarts": {"T_0": 4}}
    options |= {"cyclic": {"max_lr": 1.0}, "one_cycle": {"total_steps": 9}}
    options |= {"warmup_cosine": {"warmup_steps": 2, "total_steps": 9}}
    options |= {"warmup_stable_decay": {"warmup_steps": 2, "stable_steps": 2, "decay_steps": 4}}
    schedule = getattr(fx.schedules, name)(0.1, **options.get(name, {}))
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(step) for step in range(9)] == [schedule(step) for step in range(9)]


def test_a_joined_schedule():
    schedule = fx.schedules.join([fx.schedules.linear(0.1), fx.schedules.exponential(0.1, 0.9)], [5])
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(step) for step in range(9)] == [schedule(step) for step in range(9)]


def test_a_rule_that_no_module_holds():
    rule = fx.Rule(lambda base, param, grad, s: (base,), lambda step: None)
    with pytest.raises(pickle.PicklingError, match="no variable of its functions' module holds it"):
        pickle.dumps(rule)


def step_once(optimizer):
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = torch.ones_like(p)
    optimizer.step()
    return p.detach()


def test_an_optimizer_in_another_process():
    """Which is spawned, and so has to import all that it needs."""
    optimizer = optim.TransformOptimizer([torch.nn.Parameter(torch.ones(3))], COMPOSED["chain"])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(step_once, (optimizer,))
    assert_equal(found, step_once(optimizer))
