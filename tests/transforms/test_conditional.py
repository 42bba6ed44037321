"""Transformations that are applied at some steps: as Optax's, in place, compiled, under vmap and with arguments."""

import optax
import pytest
import torch
from optax_runs import assert_same_run
from trees import assert_equal, clone, params_like, random_like

import optimfx as fx

BOTH = {
    "transform": (fx.conditionally_transform, optax.conditionally_transform),
    "mask": (fx.conditionally_mask, optax.conditionally_mask),
}
both = pytest.mark.parametrize("make, twin", BOTH.values(), ids=BOTH)


def every_third(step):
    return step % 3 == 1


@both
def test_runs_equal_optax(make, twin):
    assert_same_run(make(fx.adam(0.1), every_third), twin(optax.adam(0.1), every_third))


@both
def test_every_way_to_step_is_the_same(make, twin):
    tx = fx.chain(fx.clip_by_global_norm(1.0), make(fx.chain(fx.scale_by_adam(), fx.scale_by_lr(0.1)), every_third))
    params = params_like(torch.float64)
    runs = {
        name: (clone(params), tx.init(params))
        for name in ("step", "in place", "update", "compiled", "compiled in place")
    }
    compiled = torch.compile(lambda g, s, p, inplace: fx.step(tx, g, s, p, inplace=inplace), backend="eager")
    for _ in range(4):
        grads = random_like(params)
        given = clone(grads)
        after = {}
        for name, (p, s) in runs.items():
            if name == "update":
                updates, s = tx.update(grads, s, p)
                p = fx.apply_updates(p, updates)
            elif "compiled" in name:
                p, s = compiled(clone(grads), s, p, "place" in name)
            else:
                p, s = fx.step(tx, clone(grads), s, p, inplace=name == "in place")
            after[name] = p, s
        assert_equal(grads, given)
        runs = after
        for p, _ in runs.values():
            assert_equal(p, runs["step"][0], rtol=1e-12, atol=1e-12)


@both
def test_a_condition_for_each_model(make, twin):
    tx = make(fx.sgd(1.0), lambda step, flag: flag, forward_extra_args=True)
    params = {"w": torch.ones(2)}
    state = tx.init(params)
    flags = torch.tensor([True, False])
    mapped = torch.vmap(lambda flag: tx.update(params, state, params, flag=flag)[0]["w"])(flags)
    assert_equal(list(mapped), [tx.update(params, state, params, flag=flag)[0]["w"] for flag in flags])


def test_the_condition_may_take_arguments():
    tx = fx.conditionally_mask(fx.sgd(1.0), lambda step, value: value < 1.0, forward_extra_args=True)
    params = {"w": torch.ones(1)}
    state = tx.init(params)
    assert tx.update(params, state, params, value=torch.tensor(2.0))[0]["w"].item() == 0.0
    assert tx.update(params, state, params, value=torch.tensor(0.5))[0]["w"].item() == -1.0


def test_the_inner_state_waits():
    tx = fx.conditionally_transform(fx.adam(0.1), every_third)
    params = {"w": torch.ones(1)}
    state = tx.init(params)
    for _ in range(6):
        params, state = fx.step(tx, params, state, params)
    assert state.step.item() == 6 and state.inner_state.step["w"].item() == 2
