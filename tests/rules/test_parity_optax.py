"""Optax as the numeric twin of every algorithm and link: float64, 20 steps, 1e-10."""

import numpy as np
import optax
import optax.contrib
import pytest
from catalogue import ALGORITHMS, LINKS, cases
from optax_runs import assert_same_run

import optimfx as fx


@cases(ALGORITHMS + LINKS, where=lambda row, options: row.twin(**options) is not None, column="Optax")
def test_training_runs_equal_optax(row, options, figure):
    figure(assert_same_run(row(**options), row.twin(**options)))


MASK = {"w": True, "b": False, "s": True}
LABELS = {"w": "a", "b": "b", "s": "a"}

COMBINATIONS = {
    "chain": (
        fx.chain(fx.clip_by_global_norm(1.0), fx.scale_by_adam(), fx.add_decayed_weights(0.1), fx.scale_by_lr(0.1)),
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            optax.add_decayed_weights(0.1),
            optax.scale_by_learning_rate(0.1),
        ),
    ),
    "masked": (
        fx.masked(fx.momentum(0.9), MASK),
        optax.masked(optax.trace(0.9), MASK),
    ),
    "masked by a function": (
        fx.masked(fx.scale(3.0), lambda params: {name: p.ndim > 0 for name, p in params.items()}),
        optax.masked(optax.scale(3.0), lambda params: {name: p.ndim > 0 for name, p in params.items()}),
    ),
    "masked decay": (
        fx.add_decayed_weights(0.1, mask=MASK),
        optax.add_decayed_weights(0.1, mask=MASK),
    ),
    "partition": (
        fx.partition({"a": fx.adam(0.1), "b": fx.sgd(0.1, momentum=0.9)}, LABELS),
        optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, LABELS),
    ),
    # Optax keeps injected values in float32: these are exact there.
    "inject_hyperparams": (
        fx.inject_hyperparams(fx.adam)(lr=lambda step: 0.5 ** (step + 3), betas=(0.75, 0.875), eps=2**-20),
        optax.inject_hyperparams(optax.adam)(lambda step: 0.5 ** (step + 3), b1=0.75, b2=0.875, eps=2**-20),
    ),
    "normalize": (fx.normalize(), optax.contrib.normalize()),
    "stateless": (
        fx.stateless(lambda updates, params: {name: u + params[name] for name, u in updates.items()}),
        optax.stateless(lambda updates, params: {name: u + params[name] for name, u in updates.items()}),
    ),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_chains_equal_optax(name):
    assert_same_run(*COMBINATIONS[name])


SCHEDULES = {
    "cosine_annealing": (
        lambda step: fx.schedules.cosine_annealing(0.3, 40, eta_min=0.03)(min(step, 40)),
        optax.cosine_decay_schedule(0.3, 40, alpha=0.1),
    ),
    "exponential": (fx.schedules.exponential(0.3, 0.9), optax.exponential_decay(0.3, 1, 0.9)),
    "step_decay": (
        fx.schedules.step_decay(0.3, 7, gamma=0.5),
        optax.exponential_decay(0.3, 7, 0.5, staircase=True),
    ),
    "polynomial": (
        fx.schedules.polynomial(0.3, 40, power=2.0),
        optax.polynomial_schedule(0.3, 0.0, power=2.0, transition_steps=40),
    ),
    "multi_step": (
        fx.schedules.multi_step(0.3, [3, 9], gamma=0.5),
        optax.piecewise_constant_schedule(0.3, {3: 0.5, 9: 0.5}),
    ),
    "warmup_cosine": (
        fx.schedules.warmup_cosine(0.3, 10, 40, init_lr=0.1, eta_min=0.01),
        optax.warmup_cosine_decay_schedule(0.1, 0.3, 10, 40, end_value=0.01),
    ),
    "warmup_stable_decay": (
        fx.schedules.warmup_stable_decay(0.3, 5, 20, 10, init_lr=0.1, eta_min=0.01),
        optax.join_schedules(
            [optax.linear_schedule(0.1, 0.3, 5), optax.constant_schedule(0.3), optax.linear_schedule(0.3, 0.01, 10)],
            [5, 25],
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_optax(name):
    ours, theirs = SCHEDULES[name]
    for step in range(60):
        np.testing.assert_allclose(ours(step), theirs(step), rtol=1e-10, atol=1e-15)
