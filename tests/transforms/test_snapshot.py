"""Measurements of one's own: as Optax's, in every way to step, and never the memory of what passes."""

import jax
import numpy as np
import optax
import pytest
import torch
from optax_runs import random_tree, to_torch
from trees import random_like

import optimfx as fx


def test_measurements_equal_optax():
    ours = fx.chain(
        fx.sgd(0.1, momentum=0.9),
        fx.snapshot("norm", fx.global_norm),
        fx.snapshot("clipped", fx.measure_with_ema(lambda u: (fx.global_norm(u) > 0.4).double(), 0.9)),
        fx.clip_by_global_norm(0.4),
    )
    clipped = optax.measure_with_ema(lambda u: optax.tree.norm(u) > 0.4, 0.9)
    theirs = optax.chain(
        optax.sgd(0.1, momentum=0.9),
        optax.monitor({"norm": optax.tree.norm, "clipped": clipped}),
        optax.clip_by_global_norm(0.4),
    )
    rng = np.random.default_rng(0)
    params = random_tree(rng)
    state, twin_state = ours.init(to_torch(params)), theirs.init(params)
    for _ in range(6):
        grads = random_tree(rng)
        _, state = ours.update(to_torch(grads), state)
        _, twin_state = theirs.update(jax.tree.map(jax.numpy.asarray, grads), twin_state)
        for name in ("norm", "clipped"):
            np.testing.assert_allclose(fx.tree_get(state, name), optax.tree.get(twin_state, name), rtol=1e-6)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_measured_is_not_written_over(inplace):
    tx = fx.chain(fx.snapshot("grads", lambda updates: updates), fx.sgd(0.1, momentum=0.9))
    params = {"w": torch.randn(4)}
    grads = random_like(params)
    given = grads["w"].clone()
    _, state = fx.step(tx, grads, tx.init(params), params, inplace=inplace)
    assert torch.equal(state[0].measurement["grads"]["w"], given)


def test_one_graph_and_every_model():
    tx = fx.chain(fx.snapshot("norm", fx.global_norm), fx.sgd(0.1))
    params = {"w": torch.randn(3, 4)}
    compiled = torch.compile(lambda g, s, p: fx.step(tx, g, s, p), fullgraph=True, backend="eager")
    _, state = compiled(params, tx.init(params), params)
    torch.testing.assert_close(state[0].measurement["norm"], fx.global_norm(params))
    norms = torch.vmap(lambda p: tx.update(p, tx.init(p), p)[1][0].measurement["norm"])(params)
    torch.testing.assert_close(norms, params["w"].norm(dim=1))


def test_what_measures_nothing_is_refused():
    with pytest.raises(TypeError, match="measure must be a function of the updates or a transformation; got 'norm'"):
        fx.snapshot("norm", "norm")
    with pytest.raises(ValueError, match="decay"):
        fx.measure_with_ema(fx.global_norm, 1.5)
