"""Cautious directions: against the definition, in every way to step."""

import pytest
import torch
from trees import assert_equal, clone, params_like

import optimfx as fx


def by_hand(direction, grad):
    keep = (direction * grad > 0).to(direction.dtype)
    return direction * keep / keep.mean().clamp(min=1e-3) if keep.numel() else direction


@pytest.mark.parametrize("inner", [fx.scale_by_adam(), fx.scale_by_lion(), fx.momentum(0.9, nesterov=True)], ids=repr)
@pytest.mark.parametrize("how", ["step", "in place", "update", "compiled"])
def test_equals_the_definition(inner, how):
    tx = fx.chain(fx.cautious(inner), fx.add_decayed_weights(0.1), fx.scale_by_lr(0.1))
    params = {name: p for name, p in params_like(torch.float64).items() if isinstance(p, torch.Tensor)}
    params = {f"{name}{i}": p.clone() for name, p in params.items() for i in range(2)} | {"none": None}
    grads = {name: None if p is None else torch.randn_like(p) for name, p in params.items()}
    state, twin_state, twins = tx.init(params), inner.init(params), clone(params)
    step = torch.compile(fx.step, backend="eager", fullgraph=True) if how == "compiled" else fx.step
    for i in range(4):
        grads = {name: None if g is None else g.roll(1) - 0.1 * i for name, g in grads.items()}
        given = clone(grads)
        if how == "update":
            updates, state = tx.update(given, state, params)
            params = fx.apply_updates(params, updates)
        else:
            params, state = step(tx, given, state, params, inplace=how == "in place")
        direction, twin_state = inner.update(grads, twin_state, twins)
        twins = {
            name: None if p is None else p - 0.1 * (by_hand(direction[name], grads[name]) + 0.1 * p)
            for name, p in twins.items()
        }
        assert_equal(params, twins, rtol=1e-12, atol=1e-12)
        assert how == "in place" or all(g is None or torch.equal(g, grads[name]) for name, g in given.items())


def test_maps_over_models_and_differentiates():
    tx = fx.chain(fx.cautious(fx.scale_by_adam()), fx.scale_by_lr(0.1))
    params = {"w": torch.randn(3, 4, dtype=torch.float64)}
    states = torch.vmap(tx.init)(params)
    mapped, _ = torch.vmap(lambda p, s: fx.step(tx, p, s, p))(params, states)
    for i in range(3):
        one = {"w": params["w"][i]}
        assert_equal(mapped["w"][i], fx.step(tx, one, tx.init(one), one)[0]["w"], rtol=1e-12, atol=1e-12)
    grad = torch.func.grad(lambda p: fx.step(tx, p, tx.init(p), p)[0]["w"].square().sum())(params)
    assert grad["w"].isfinite().all()


def test_nan_and_nothing_that_agrees():
    tx, params = fx.cautious(fx.scale(-1.0)), {"w": torch.tensor([1.0, 2.0])}
    assert tx.update(params, tx.init(params), params)[0]["w"].tolist() == [0.0, 0.0]
    tx, bad = fx.cautious(fx.identity()), {"w": torch.tensor([torch.nan, 2.0])}
    assert tx.update(bad, tx.init(bad), bad)[0]["w"].isnan().any()


def test_an_element_without_gradient_is_left_out():
    tx = fx.cautious(fx.momentum(1.0))
    _, state = tx.update({"w": torch.tensor([2.0, 2.0])}, tx.init({"w": torch.zeros(2)}))
    assert tx.update({"w": torch.tensor([0.0, 1.0])}, state)[0]["w"].tolist() == [0.0, 6.0]
