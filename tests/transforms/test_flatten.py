"""All parameters as one vector: as Optax's, the same for elementwise rules, and every way to step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from catalogue import ALGORITHMS, rows
from optax_runs import assert_same_run
from trees import assert_equal, clone, params_like

import optimfx as fx

ELEMENTWISE = [row for row in ALGORITHMS if row.rule and row.rule.elementwise and not row.couples_leaves]


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (fx.flatten(fx.adam(0.1)), optax.flatten(optax.adam(0.1))),
        (fx.flatten(fx.clip_by_block_rms(0.1)), optax.flatten(optax.clip_by_block_rms(0.1))),
        (
            fx.chain(fx.flatten(fx.scale_by_param_block_norm()), fx.scale(-0.1)),
            optax.chain(optax.flatten(optax.scale_by_param_block_norm()), optax.scale(-0.1)),
        ),
    ],
    ids=["adam", "clip by block", "block norm"],
)
def test_runs_equal_optax(ours, theirs):
    assert_same_run(ours, theirs)


@rows(ELEMENTWISE)
def test_an_elementwise_rule_does_the_same(row):
    plain, params = row(**row.richest), params_like(torch.float64)
    flat = fx.flatten(plain)
    runs = {plain: (params, plain.init(params)), flat: (clone(params), flat.init(params))}
    for _ in range(3):
        for tx, (p, s) in runs.items():
            runs[tx] = fx.step(tx, clone(p), s, p)
    assert_equal(runs[flat][0], runs[plain][0], rtol=1e-12, atol=1e-12)


def test_every_way_to_step_is_the_same():
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.flatten(fx.adamw(0.1)))
    params = params_like(torch.float32)
    runs = {name: (clone(params), tx.init(params)) for name in ("step", "in place", "update", "compiled")}
    compiled = torch.compile(lambda g, s, p: fx.step(tx, g, s, p), fullgraph=True, backend="eager")
    for _ in range(3):
        grads = clone(runs["step"][0])
        for name, (p, s) in runs.items():
            if name == "update":
                updates, s = tx.update(grads, s, p)
                p = fx.apply_updates(p, updates)
            elif name == "compiled":
                p, s = compiled(clone(grads), s, p)
            else:
                p, s = fx.step(tx, clone(grads), s, p, inplace=name == "in place")
            runs[name] = p, s
        for p, _ in runs.values():
            assert_equal(p, runs["step"][0], rtol=1e-6, atol=1e-6)


def test_models_under_vmap():
    tx = fx.flatten(fx.scale_by_trust_ratio())
    models = {"w": torch.randn(3, 4, 2), "b": torch.randn(3, 2)}
    found = torch.vmap(lambda p: tx.update(p, tx.init(p), p)[0])(models)
    for i in range(3):
        p = {name: x[i] for name, x in models.items()}
        assert_equal({name: x[i] for name, x in found.items()}, tx.update(p, tx.init(p), p)[0], rtol=1e-6, atol=1e-6)


def test_leaves_of_many_kinds():
    """The vector's dtype holds all; a complex leaf is pairs of reals; one without gradient stays."""
    params = {
        "half": torch.ones(2, dtype=torch.bfloat16),
        "complex": torch.tensor([3 + 4j], dtype=torch.complex64),
        "still": torch.ones(2),
        "none": None,
    }
    tx = fx.flatten(fx.clip_by_block_rms(1.0))
    state = tx.init(params)
    grads = {**params, "still": None}
    updates, _ = tx.update(grads, state, params)
    rms = (27 / 6) ** 0.5  # 1 + 1 + 9 + 16 + 0 + 0, over six numbers
    assert_equal(updates["complex"], params["complex"] / rms)
    assert_equal(updates["half"], (params["half"] / rms).to(torch.bfloat16), rtol=2e-2, atol=0)
    assert updates["still"] is None and updates["none"] is None
    kept = fx.flatten(fx.momentum(0.9)).init({"w": torch.ones(3, dtype=torch.bfloat16)})
    assert fx.tree_get(kept, "momentum_buffer").dtype == torch.bfloat16
    new, _ = fx.step(tx, grads, state, params)
    assert new["still"] is params["still"] or torch.equal(new["still"], params["still"])


def test_bad_calls_are_refused():
    with pytest.raises(TypeError, match="flatten: inner must be a GradientTransformation"):
        fx.flatten(fx.sgd)
    tx, params = fx.flatten(fx.adam(0.1)), {"w": torch.ones(3)}
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"updates\['w'\] has shape"):
        tx.update({"w": torch.ones(2)}, state, params)
    with pytest.raises(ValueError, match="updates does not have the structure of params"):
        tx.update({"v": torch.ones(3)}, state, params)
    assert "one" not in repr(tx) and "adam" in repr(tx) and fx.explain(tx, params)


class LeastSoFar:
    """A rate that falls with the least loss so far; written for torch and for jax."""

    def __init__(self, xp):
        self.xp = xp

    def init(self):
        return self.xp.asarray(1e3)

    def update(self, state, **extra):
        return self.xp.minimum(state, extra["value"])

    def __call__(self, state, **extra):
        return 0.1 / (1 + 1 / state) if not extra else 0.1 / (1 + 1 / self.xp.minimum(state, extra["value"]))


def test_stateful_schedules_run_as_optax():
    def run(inject, sgd, xp, apply, name):
        tx = inject(sgd)(**{name: LeastSoFar(xp)}, momentum=0.9)
        params = {"w": xp.asarray([1.0, -2.0])}
        state = tx.init(params)
        for i in range(6):
            value = (params["w"] ** 2).sum() * (1 + 5 * (i % 2))  # not always the least so far
            updates, state = tx.update({"w": 2 * params["w"]}, state, params, value=value)
            params = apply(params, updates)
        return np.asarray(params["w"]), float(state.hyperparams[name])

    ours = run(fx.inject_stateful_hyperparams, fx.sgd, torch, fx.apply_updates, "lr")
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.inject_hyperparams, optax.sgd, jnp, optax.apply_updates, "learning_rate")
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)  # of losses in float32


def test_without_stateful_schedules_it_is_inject_hyperparams():
    how = {"lr": lambda step: 0.1 / (step + 1), "betas": (0.8, 0.9)}
    plain, other = (inject(fx.adam)(**how) for inject in (fx.inject_hyperparams, fx.inject_stateful_hyperparams))
    params = params_like(torch.float64)
    runs = {plain: (params, plain.init(params)), other: (clone(params), other.init(params))}
    for i in range(4):
        for tx, (p, s) in runs.items():
            p, s = fx.step(tx, clone(p), s, p, inplace=i > 1)
            s.hyperparams["betas"] = (torch.tensor(0.7), torch.tensor(0.95))
            runs[tx] = p, s
    assert_equal(runs[plain][0], runs[other][0])
    assert_equal(runs[plain][1].hyperparams, runs[other][1].hyperparams)


def test_a_stateful_schedule_compiles_and_is_mapped(fresh_compiler):
    tx = fx.inject_stateful_hyperparams(fx.sgd)(lr=LeastSoFar(torch))

    def train(w, steps=3):
        params, state = {"w": w}, tx.init({"w": w})
        for _ in range(steps):
            params, state = fx.step(tx, {"w": 2 * params["w"]}, state, params, value=(params["w"] ** 2).sum())
        return params["w"]

    models = torch.randn(3, 2)
    assert_equal(torch.vmap(train)(models), torch.stack([train(w) for w in models]), rtol=1e-6, atol=1e-6)
    compiled = torch.compile(train, fullgraph=True, backend="eager")
    assert_equal(compiled(models[0]), train(models[0]), rtol=1e-6, atol=1e-6)


def test_names_are_checked_and_shown():
    with pytest.raises(TypeError, match="inject_stateful_hyperparams takes a factory"):
        fx.inject_stateful_hyperparams(fx.sgd(0.1))
    with pytest.raises(ValueError, match="static_args names"):
        fx.inject_stateful_hyperparams(fx.sgd, static_args=["rate"])
    tx, params = fx.inject_stateful_hyperparams(fx.sgd)(lr=LeastSoFar(torch)), {"w": torch.ones(2)}
    assert "inject_stateful_hyperparams" in repr(tx) and "sgd" in repr(tx)
    state = tx.init(params)
    state.hyperparams["rate"] = 1.0
    with pytest.raises(ValueError, match=r"state.hyperparams has \['rate'\]"):
        fx.step(tx, params, state, params, value=torch.tensor(1.0))
    assert fx.explain(tx, params)
