"""Lookahead, beside Optax's, which carries both parameters in a pair."""

import optax
import optax_runs  # noqa: F401 - float64 in JAX
import pytest
import torch
from trees import random_like, stack

import optimfx as fx

PARAMS = {"w": torch.randn(4, 3, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}


@pytest.mark.parametrize("period, size", [(1, 0.5), (3, 0.8), (4, 0.0), (2, 1.0)])
def test_lookahead_equals_optax(period, size):
    ours = fx.lookahead(fx.adam(0.1, eps=1e-3), period, size)
    theirs = optax.lookahead(optax.adam(0.1, eps=1e-3), period, size)
    params, state = PARAMS, ours.init(PARAMS)
    pair = optax.LookaheadParams.init_synced({name: p.numpy() for name, p in PARAMS.items()})
    their_state = theirs.init(pair)
    for _ in range(12):
        grads = random_like(params)
        updates, their_state = theirs.update({n: g.numpy() for n, g in grads.items()}, their_state, pair)
        pair = optax.apply_updates(pair, updates)
        params, state = fx.step(ours, grads, state, params)
        for mine, their in ((params, pair.fast), (state[1].slow, pair.slow)):
            for name in params:
                expected = torch.tensor(their[name].tolist(), dtype=torch.float64)
                torch.testing.assert_close(mine[name], expected, rtol=1e-9, atol=1e-12)


def test_lookahead_fuses_to_one_pass():
    assert len(fx.explain(fx.lookahead(fx.adamw()), PARAMS)) == 1


def test_lookahead_under_vmap_and_in_one_graph():
    tx = fx.lookahead(fx.sgd(0.1), 2)
    models = [{"w": torch.randn(3)} for _ in range(3)]
    grads = [random_like(model) for model in models]

    def three(params, grads):
        state = tx.init(params)
        for _ in range(3):
            params, state = fx.step(tx, grads, state, params)
        return params

    expected = stack([three(*each) for each in zip(models, grads)])
    torch.testing.assert_close(torch.vmap(three)(stack(models), stack(grads)), expected)
    compiled = torch.compile(three, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(models[0], grads[0]), three(models[0], grads[0]))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((fx.sgd, 5), "fast_optimizer"),
        ((fx.sgd(), 0), "sync_period must be an integer in"),
        ((fx.sgd(), 2.5), "sync_period must be an integer"),
        ((fx.sgd(), 5, 1.5), "slow_step_size"),
    ],
)
def test_lookahead_refuses_bad_arguments(arguments, match):
    with pytest.raises((ValueError, TypeError), match=match):
        fx.lookahead(*arguments)
