"""Optimizers that need no schedule, beside Optax's; and what is evaluated."""

import copy
import pickle

import optax
import optax.contrib
import optax_runs  # noqa: F401 - float64 in JAX
import pytest
import torch
from trees import clone, random_like, stack

import optimfx as fx

PARAMS = {"w": torch.randn(4, 3, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
PAIRS = {
    "sgd": (fx.schedule_free_sgd(0.1), optax.contrib.schedule_free_sgd(0.1)),
    "sgd, decayed": (
        fx.schedule_free_sgd(0.1, None, 0.8, 0.1, 1.0),
        optax.contrib.schedule_free_sgd(0.1, None, 0.8, 0.1, 1.0),
    ),
    "adamw": (
        fx.schedule_free_adamw(0.1, None, (0.8, 0.95), 1e-4, 0.1),
        optax.contrib.schedule_free_adamw(0.1, None, 0.8, 0.95, 1e-4, 0.1),
    ),
    "around another": (
        fx.schedule_free(fx.chain(fx.clip_by_global_norm(1.0), fx.rmsprop(0.1, 0.9, 1e-3)), 0.1),
        optax.contrib.schedule_free(
            optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(0.1, 0.9, 1e-3, eps_in_sqrt=False)), 0.1
        ),
    ),
}


@pytest.mark.parametrize("ours, theirs", PAIRS.values(), ids=PAIRS.keys())
def test_schedule_free_equals_optax(ours, theirs):
    """Parameters, and those that are evaluated, for 20 steps."""
    params, state = PARAMS, ours.init(PARAMS)
    their_params = {name: p.numpy() for name, p in PARAMS.items()}
    their_state = theirs.init(their_params)
    for _ in range(20):
        grads = random_like(params)
        updates, their_state = theirs.update({n: g.numpy() for n, g in grads.items()}, their_state, their_params)
        their_params = optax.apply_updates(their_params, updates)
        params, state = fx.step(ours, grads, state, params)
        averages = (
            fx.schedule_free_eval_params(state, params),
            optax.contrib.schedule_free_eval_params(their_state, their_params),
        )
        for mine, their in ((params, their_params), averages):
            for name in params:
                expected = torch.tensor(their[name].tolist(), dtype=torch.float64)
                torch.testing.assert_close(mine[name], expected, rtol=1e-9, atol=1e-12)


def test_the_first_step_of_a_warmup_moves_nothing():
    """Then the largest rate so far weighs the steps."""
    tx, params, rates = fx.schedule_free_sgd(0.5, warmup_steps=2), {"w": torch.ones(2)}, []
    state = tx.init(params)
    for step in range(4):
        params, state = fx.step(tx, {"w": torch.ones(2)}, state, params)
        rates.append(state[1].max_lr["w"].item())
        assert (params["w"] == 1).all() == (step == 0)
    assert rates == [0.0, 0.25, 0.5, 0.5]
    assert state[1].weight_sum["w"].item() == sum(rate**2 for rate in rates)


def test_schedule_free_fuses_to_one_pass():
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.schedule_free_adamw())
    assert len(fx.explain(tx, {"w": torch.ones(4), "b": torch.ones(3)})) == 1


def test_schedule_free_under_vmap_and_in_one_graph():
    tx = fx.schedule_free_adamw(0.1, 5)
    models = [{"w": torch.randn(3)} for _ in range(3)]
    grads = [random_like(model) for model in models]

    def two(params, grads):
        state = tx.init(params)
        for _ in range(2):
            params, state = fx.step(tx, grads, state, params)
        return params, fx.schedule_free_eval_params(state, params)

    expected = stack([two(*each) for each in zip(models, grads)])
    torch.testing.assert_close(torch.vmap(two)(stack(models), stack(grads)), expected)
    compiled = torch.compile(two, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(models[0], grads[0]), two(models[0], grads[0]))


def test_schedule_free_pickles_and_its_state_copies():
    tx = pickle.loads(pickle.dumps(fx.schedule_free_adamw(0.1, 5)))
    params = clone(PARAMS)
    state = tx.init(params)
    torch.testing.assert_close(fx.schedule_free_eval_params(copy.deepcopy(state), params), params)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: fx.schedule_free(fx.sgd(0.1), 0.1, beta=0.0), "beta must be above 0"),
        (lambda: fx.schedule_free(fx.sgd(0.1), 0.1, beta=1.0), "beta"),
        (lambda: fx.schedule_free(fx.sgd, 0.1), "base_optimizer"),
        (lambda: fx.schedule_free_sgd(fx.schedules.linear(0.1), 5), "lr must be a number"),
        (lambda: fx.schedule_free_sgd(0.1, 0), "warmup_steps"),
        (lambda: fx.schedule_free_eval_params(fx.adam().init(PARAMS), PARAMS), "no ScheduleFreeState"),
    ],
)
def test_schedule_free_refuses_bad_arguments(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()
