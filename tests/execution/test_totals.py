"""Sums over all leaves: of every segment, of leaves that have taken other steps, and in every way to step."""

import pytest
import torch
from trees import assert_equal, clone

import optimfx as fx

PARAMS = {"w": torch.tensor([[1.0, -2.0], [3.0, 0.5]]).double(), "b": torch.tensor([4.0]).double()}
GRADS = {"w": torch.tensor([[2.0, 1.0], [0.0, -1.0]]).double(), "b": torch.tensor([3.0]).double()}


def flat(tree):
    return torch.cat([t.flatten() for t in tree.values()])


@pytest.mark.parametrize("inplace", [False, True])
def test_leaves_of_every_segment_count(inplace):
    """Measures are of each leaf's decayed gradient, where one leaf has decay and one has none."""
    tx = fx.chain(fx.masked(fx.add_decayed_weights(0.5), {"w": True, "b": False}), fx.scale_by_dog(("distance", 0.1)))
    params = clone(PARAMS)
    stepped, state = fx.step(tx, clone(GRADS), tx.init(params), params, inplace=inplace)
    decayed = {"w": GRADS["w"] + 0.5 * PARAMS["w"], "b": GRADS["b"]}
    size = 0.1 / (flat(decayed).square().sum() + 1e-8) ** 0.5
    assert_equal(stepped, {name: PARAMS[name] + size * decayed[name] for name in PARAMS}, rtol=1e-12, atol=1e-12)
    assert len({x.item() for x in state[1].sum_sq_norm_grads.values()}) == 1


@pytest.mark.parametrize("how", ["out of place", "in place", "compiled"])
def test_leaves_that_have_taken_other_steps(how):
    """MoMo weighs the first gradient of a leaf by 1, and later ones by ``1 - beta``: each is measured at its step."""
    tx, params = fx.momo(lr=1.0, beta=0.5), clone(PARAMS)
    state, inplace = tx.init(params), how == "in place"
    params, state = fx.step(tx, {"w": GRADS["w"].clone(), "b": None}, state, params, value=20.0, inplace=inplace)
    assert torch.equal(params["b"], PARAMS["b"])
    before, average = clone(params), {"w": GRADS["w"], "b": 3 * GRADS["b"]}
    gamma = {"w": (GRADS["w"] * PARAMS["w"]).sum(), "b": 0.0}
    second = {"w": -GRADS["w"], "b": 3 * GRADS["b"]}
    step = torch.compile(fx.step, fullgraph=True, backend="eager") if how == "compiled" else fx.step
    params, state = step(tx, clone(second), state, params, value=10.0, inplace=inplace)
    average["w"] = (GRADS["w"] + second["w"]) / 2
    avg_dot, sq_norm = (flat(average) * flat(before)).sum(), flat(average).square().sum()
    grad_dot = (flat(second) * flat(before)).sum()
    for name, weight, barf in (("w", 0.5, 20.0), ("b", 1.0, 0.0)):
        bar = barf + weight * (10.0 - barf)
        gap = bar - (gamma[name] + weight * (grad_dot - gamma[name])) + avg_dot
        size = (gap.clamp(min=0) / sq_norm).clamp(max=1.0)
        assert_equal(params[name], before[name] - size * average[name], rtol=1e-12, atol=1e-12)


def test_models_are_measured_by_themselves():
    tx = fx.prodigy(estim_lr0=0.01)
    models = {name: torch.stack([p, 2 * p, 3 * p]) for name, p in PARAMS.items()}
    states, alone = torch.vmap(tx.init)(models), []
    many = models
    for _ in range(12):
        many, states = torch.vmap(lambda p, s: fx.step(tx, p, s, p))(many, states)
    for i in range(3):
        one = {name: p[i] for name, p in models.items()}
        state = tx.init(one)
        for _ in range(12):
            one, state = fx.step(tx, one, state, one)
        alone.append(one)
    assert_equal(many, {name: torch.stack([one[name] for one in alone]) for name in PARAMS}, rtol=1e-12, atol=1e-12)
    assert len({x.item() for x in states.estim_lr["w"]}) == 3


def test_an_estimate_grows_and_descends():
    """On a quadratic, from far too small an estimate."""
    for tx in (fx.prodigy(), fx.dadapt_adamw(), fx.dog(), fx.dowg()):
        params = clone(PARAMS)
        state = tx.init(params)
        for _ in range(400):
            params, state = fx.step(tx, clone(params), state, params)
        assert flat(params).norm() < 0.1 * flat(PARAMS).norm(), fx.describe(tx)


def test_the_value_is_asked_for_and_a_closure_gives_it():
    tx = fx.chain(fx.clip_by_global_norm(100.0), fx.momo())
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"momo needs value: call update\(updates, state, params, value=...\)"):
        fx.step(tx, GRADS, state, PARAMS)
    expected, _ = fx.step(tx, PARAMS, state, PARAMS, value=flat(PARAMS).square().sum() / 2)
    params = {name: torch.nn.Parameter(p.clone()) for name, p in PARAMS.items()}
    optimizer = fx.optim.TransformOptimizer(params.values(), tx)

    def closure():
        optimizer.zero_grad()
        loss = flat(params).square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_equal({name: p.detach() for name, p in params.items()}, expected, rtol=1e-12, atol=1e-12)
