"""Guards that leave out steps and elements that are not finite, beside Optax's."""

import functools

import jax
import numpy as np
import optax
import pytest
import torch
from optax_runs import SHAPES, random_tree, to_torch
from optree import tree_map
from trees import assert_equal, clone, leaves

import optimfx as fx

BAD = {1: ("w", np.nan), 3: ("b", np.inf), 4: ("s", -np.inf), 5: ("w", np.nan), 6: ("w", np.nan), 9: ("s", np.nan)}
"""In which step which leaf is not finite: once, and several times in a row."""


def gradients(steps=12):
    rng = np.random.default_rng(1)
    for at in range(steps):
        grads = random_tree(rng)
        if at in BAD:
            name, value = BAD[at]
            grads[name] = np.array(grads[name])
            grads[name].flat[-1] = value
        yield grads


def finite(tree, index=...):
    return all(torch.isfinite(x[index]).all() for x in leaves(tree))


def mapped(step):
    """Over two models, of which the second one's gradients are always finite."""

    def call(grads, state, params):
        pairs = [tree_map(lambda x: torch.stack([x, x]), tree) for tree in (grads, state, params)]
        pairs[0] = {name: torch.stack([g[0], torch.nan_to_num(g[1], 0.5, 0.5, 0.5)]) for name, g in pairs[0].items()}
        results = torch.vmap(step)(*pairs)
        if finite((state, params)):
            assert finite(results[0], 1)
        return tree_map(lambda x: x[0], results)

    return call


@functools.cache
def run_of_optax(twin):
    """The parameters and states along Optax's run, compiled: its conditions would be compiled again at each step."""
    update = jax.jit(twin.update)
    params = tree_map(jax.numpy.asarray, random_tree(np.random.default_rng(0)))
    state, run = twin.init(params), []
    for grads in gradients():
        updates, state = update(tree_map(jax.numpy.asarray, grads), state, params)
        params = optax.apply_updates(params, updates)
        run.append((params, state))
    return run


WAYS = {
    "eager": lambda step: step,
    "vmap": mapped,
    "compiled": lambda step: torch.compile(step, fullgraph=True, backend="eager"),
    "unknown": lambda step: step,  # as on a device, whose answers nobody waits for
}


def writes(inplace, way):
    """Whether this way can be asked for: vmap does not write into what it was not given."""
    return not (inplace and way == "vmap")


LEAVING_OUT = {most: optax.apply_if_finite(optax.adam(0.1), most) for most in (0, 1, 2, 5)}


@pytest.mark.thorough(lambda most, kind, way: way == "compiled" and most != 2)
@pytest.mark.parametrize(
    "kind, way",
    [(kind, way) for kind in ("update", "step", "in place") for way in WAYS if writes(kind == "in place", way)],
)
@pytest.mark.parametrize("most", LEAVING_OUT)
def test_steps_are_left_out_as_by_optax(most, kind, way, monkeypatch, fresh_compiler):
    if way == "unknown":
        monkeypatch.setattr("optimfx.core.tracing.read_number", lambda x: x)
    inplace = kind == "in place"
    tx = fx.apply_if_finite(fx.adam(0.1), most)
    params = to_torch(random_tree(np.random.default_rng(0)))
    state = tx.init(params)
    if kind == "update":
        call = WAYS[way](lambda g, s, p: tx.update(g, s, p))
    else:
        call = WAYS[way](lambda g, s, p: fx.step(tx, g, s, p, inplace=inplace))
    for grads, (theirs, twin_state) in zip(gradients(), run_of_optax(LEAVING_OUT[most])):
        before = clone(params)
        given = to_torch(grads)
        results, state = call(given, state, params)
        params = fx.apply_updates(params, results) if kind == "update" else results
        for name in SHAPES:
            np.testing.assert_allclose(params[name], theirs[name], rtol=1e-10, atol=1e-10)
        for name in ("notfinite_count", "last_finite", "total_notfinite"):
            assert int(getattr(state, name)) == int(getattr(twin_state, name)), name
        if int(twin_state.notfinite_count) and int(twin_state.notfinite_count) <= most:
            assert_equal(params, before)


def test_a_step_that_is_left_out_leaves_the_state():
    params = {"w": torch.ones(2), "b": None}
    tx = fx.apply_if_finite(fx.chain(fx.clip_by_global_norm(1.0), fx.adam()), 3)
    state = tx.init(params)
    stepped, after = fx.step(tx, {"w": torch.tensor([1.0, torch.inf]), "b": None}, state, params, inplace=True)
    assert stepped["w"] is params["w"]
    assert_equal(after.inner_state, state.inner_state)
    assert_equal(
        tx.update({"w": torch.full((2,), torch.nan), "b": None}, state, params)[0], {"w": torch.zeros(2), "b": None}
    )


LARGE = {"max_squared_norm": 16.0}
SKIPPING = {
    name: (skip, optax.MultiSteps(optax.adam(0.1), 3, accumulator_dtype=float, should_skip_update_fn=twin))
    for name, skip, twin in (
        ("not finite", fx.skip_not_finite, optax.skip_not_finite),
        (
            "large",
            functools.partial(fx.skip_large_updates, **LARGE),
            functools.partial(optax.skip_large_updates, **LARGE),
        ),
    )
}


@pytest.mark.parametrize("skip, twin", SKIPPING.values(), ids=SKIPPING)
@pytest.mark.parametrize(
    "inplace, way", [(inplace, way) for inplace in (False, True) for way in WAYS if writes(inplace, way)]
)
def test_calls_are_skipped_as_by_optax(skip, twin, way, inplace, monkeypatch, fresh_compiler):
    if way == "unknown":
        monkeypatch.setattr("optimfx.core.tracing.read_number", lambda x: x)
    tx = fx.multi_steps(fx.adam(0.1), 3, should_skip_update_fn=skip)
    params = to_torch(random_tree(np.random.default_rng(0)))
    state = tx.init(params)
    call = WAYS[way](lambda g, s, p: fx.step(tx, g, s, p, inplace=inplace))
    skipped = 0
    for grads, (theirs, twin_state) in zip(gradients(), run_of_optax(twin)):
        params, state = call(to_torch(grads), state, params)
        for name in SHAPES:
            np.testing.assert_allclose(params[name], theirs[name], rtol=1e-10, atol=1e-10)
        assert int(state.step) == 3 * int(twin_state.gradient_step) + int(twin_state.mini_step)
        assert state.skip_state.keys() == twin_state.skip_state.keys()
        for name, value in state.skip_state.items():
            np.testing.assert_allclose(value, twin_state.skip_state[name], rtol=1e-10)
        skipped += int(state.skip_state["should_skip"])
    assert 0 < skipped < 12


def test_guards_in_an_optimizer_and_in_its_checkpoint():
    p = torch.nn.Parameter(torch.zeros(2))
    tx = fx.apply_if_finite(fx.multi_steps(fx.sgd(1.0), 1, should_skip_update_fn=fx.skip_not_finite), 1)
    optimizer = fx.optim.TransformOptimizer([p], tx)
    for value in (1.0, torch.nan, torch.nan, 1.0):
        p.grad = torch.full((2,), value)
        optimizer.step()
    assert_equal(p.detach(), torch.full((2,), -2.0))
    other = fx.optim.TransformOptimizer([torch.nn.Parameter(torch.zeros(2))], tx)
    other.load_state_dict(optimizer.state_dict())
    assert_equal(other.state_of(), optimizer.state_of())
    assert int(other.state_of().total_notfinite) == 2


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: fx.apply_if_finite(fx.sgd, 3), TypeError),
        (lambda: fx.apply_if_finite(fx.sgd(), -1), ValueError),
        (lambda: fx.apply_if_finite(fx.sgd(), 1.5), ValueError),
        (lambda: fx.multi_steps(fx.sgd(), 2, should_skip_update_fn=True), TypeError),
    ],
    ids=["factory", "negative", "not an integer", "no function"],
)
def test_guards_refuse_bad_arguments(make, error):
    with pytest.raises(error, match="must be"):
        make()


def test_elements_that_are_no_numbers_become_zeros():
    grads = {"w": torch.tensor([1.0, torch.nan, -torch.inf])}
    for executor in ("eager", "foreach", "blocked"):
        tx = fx.chain(fx.zero_nans(), fx.scale(2.0))
        with fx.execution.use(executor):
            assert_equal(tx.update(grads, tx.init(grads))[0], {"w": torch.tensor([2.0, 0.0, -torch.inf])})
