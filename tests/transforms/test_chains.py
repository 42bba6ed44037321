"""Algorithms that are chains of links, or options of another: as Optax's of that name, and as the parts say."""

import optax
import optax.contrib
import optax_twins
import pytest
import torch
from chains import CHAINS
from optax_runs import assert_same_run
from trees import assert_equal, clone, params_like, random_like

import optimfx as fx

EQUAL = [
    ("adamaxw", dict(lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    ("acprop", dict(lr=0.1, betas=(0.8, 0.95), eps=1e-3, eps_root=1e-4, weight_decay=0.1)),
    ("simplified_ademamix", dict(lr=0.01, betas=(0.8, 0.95), alpha=2.0, eps=1e-3, weight_decay=0.1)),
    ("optimistic_gradient_descent", dict(lr=0.1, alpha=0.7, beta=0.4)),
    ("optimistic_adam_v2", dict(lr=0.1, alpha=0.7, beta=0.4, betas=(0.8, 0.95))),
    ("signum", dict(lr=0.1, beta=0.8)),
    ("madgrad", dict(lr=0.1, momentum=0.8, weight_decay=0.1, eps=1e-3)),
    ("cocob", dict(lr=0.5, alpha=2.0, eps=0.1, weight_decay=0.1)),
    ("dog", dict(lr=0.5, init_step=("distance", 0.1), eps=1e-3, weight_decay=0.1)),
    ("dowg", dict(lr=0.5, init_estim_sq_dist=0.1, eps=1e-3, weight_decay=0.1)),
]


@pytest.mark.parametrize("name, options", EQUAL, ids=lambda x: x if isinstance(x, str) else "")
def test_chains_equal_those_of_optax(name, options):
    twin = getattr(optax, name, None) or getattr(optax.contrib, name)
    if name == "madgrad":
        return assert_same_run(fx.madgrad(**options), optax_twins.madgrad(**options))
    words = {"lr": "learning_rate"}
    given = {words.get(key, key): value for key, value in options.items() if key != "betas"}
    given |= dict(zip(("b1", "b2"), options.get("betas", ())))
    given |= {"nesterov": False} if name == "optimistic_adam_v2" else {}
    assert_same_run(getattr(fx, name)(**options), twin(**given))


@pytest.mark.parametrize("name, whole", [("amsgrad", "adam"), ("nadamw", "nadam")])
def test_options_under_a_name_of_their_own(name, whole):
    options = {"amsgrad": dict(amsgrad=True), "nadamw": dict(decoupled_weight_decay=True, weight_decay=0.1)}[name]
    named = getattr(fx, name)(lr=0.1, **({"weight_decay": 0.1} if name == "nadamw" else {}))
    plain = getattr(fx, whole)(lr=0.1, **options)
    params = params_like()
    others, state, after = clone(params), named.init(params), plain.init(params)
    for _ in range(5):
        grads = random_like(params)
        params, state = fx.step(named, grads, state, params)
        others, after = fx.step(plain, grads, after, others)
    assert_equal(params, others)


@pytest.mark.parametrize("name", CHAINS)
def test_each_is_one_pass(name):
    rows = fx.explain(getattr(fx, name)(lr=0.1), [torch.ones(4, 3)])
    assert len(rows) == 1


def test_modifiers_fuse_with_what_is_around_them():
    tx = fx.chain(
        fx.clip_by_global_norm(1.0),
        fx.grokfast_ema(),
        fx.scale_by_adam(),
        fx.add_cautious_weight_decay(0.1),
        fx.scale_by_lr(0.1),
    )
    assert len(fx.explain(tx, [torch.ones(4, 3), torch.ones(3)])) == 1


def test_cautious_decay_shrinks_only_with_the_update():
    params = [torch.tensor([2.0, 2.0, -2.0, -2.0, 0.0])]
    updates = [torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])]
    tx = fx.add_cautious_weight_decay(0.5)
    (found,), _ = tx.update(updates, tx.init(params), params)
    assert found.tolist() == [2.0, -1.0, 1.0, -2.0, 1.0]


def test_corrections_of_gradients_by_hand():
    """The average begins with the first gradient, and the first correction is none; a long leaf is cut to the norm."""
    grads = [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])]
    for tx, expected in (
        (fx.grokfast_ema(0.5, 2.0), [[9.0, 0.0], [5.0, 0.0], [4.0, 4.0]]),
        (fx.mars_correction(1.0, 0.5, 4.0), [[3.0, 0.0], [-1.0, 0.0], [4 / 17**0.5, 16 / 17**0.5]]),
    ):
        state = tx.init([torch.zeros(2)])
        for grad, wanted in zip(grads, expected):
            (found,), state = tx.update([grad], state)
            torch.testing.assert_close(found, torch.tensor(wanted))
