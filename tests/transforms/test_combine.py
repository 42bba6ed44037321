"""chain, named_chain, masked, partition and inject_hyperparams: what their twins in Optax do not cover."""

import pytest
import torch
from catalogue import ALGORITHMS, cases, rows
from trees import assert_equal, leaves, params_like, random_like

import optimfx as fx


def run(tx, params, steps=3):
    torch.manual_seed(1)
    state = tx.init(params)
    for _ in range(steps):
        params, state = fx.step(tx, random_like(params), state, params)
    return params, state


@cases()
def test_a_chain_of_one_link_is_the_link(row, options):
    """In parameter space too: the last link of a chain keeps its own rounding."""
    params = row.params()
    link = row(**options)
    stepped, (state,) = run(fx.chain(link), params)
    assert_equal((stepped, state), run(link, params))


def test_a_link_may_stand_in_a_chain_twice():
    double = fx.scale(2.0)
    assert_equal(
        fx.step(fx.chain(double, double), [torch.ones(1)], (fx.EmptyState(),) * 2, [torch.zeros(1)])[0][0],
        torch.tensor([4.0]),
    )


def test_an_empty_chain_is_the_identity():
    tx = fx.chain()
    params = [torch.ones(2)]
    assert_equal(fx.step(tx, params, tx.init(params), params)[0], [torch.full((2,), 2.0)])


def test_nested_chains_equal_flat_ones():
    params = params_like()
    flat = fx.chain(fx.clip_by_global_norm(1.0), fx.scale_by_adam(), fx.scale_by_lr(0.1))
    nested = fx.chain(fx.clip_by_global_norm(1.0), fx.chain(fx.scale_by_adam(), fx.scale_by_lr(0.1)))
    assert_equal(run(flat, params)[0], run(nested, params)[0])


def test_named_chain_is_chain_with_names():
    params = params_like()
    links = {"clip": fx.clip_by_global_norm(1.0), "adam": fx.adam(0.1)}
    stepped, state = run(fx.named_chain(*links.items()), params)
    expected, (clip, adam) = run(fx.chain(*links.values()), params)
    assert_equal((stepped, state), (expected, {"clip": clip, "adam": adam}))


def test_plain_functions_are_links():
    """A pair of functions that know nothing of this library's classes takes part in everything."""

    def update(updates, state, params=None, *, inplace=False, **extra):
        return {name: u * extra["factor"] for name, u in updates.items()}, state + 1

    mine = fx.GradientTransformation(lambda params: 0, update)
    tx = fx.chain(mine, fx.masked(mine, True), fx.sgd(lr=1.0), mine)
    params = {"w": torch.zeros(1)}
    stepped, state = fx.step(tx, {"w": torch.ones(1)}, tx.init(params), params, factor=2.0)
    assert_equal(stepped, {"w": torch.tensor([-8.0])})
    assert (state[0], state[1].inner_states[True], state[3]) == (1, 1, 1)


def test_extra_arguments_reach_every_link():
    seen = []

    def update(updates, state, params=None, *, inplace=False, **extra):
        seen.append(extra)
        return updates, state

    spy = fx.GradientTransformation(lambda params: (), update)
    tx = fx.chain(
        spy,
        fx.adam(),
        fx.partition({"a": spy}, "a"),
        fx.named_chain(("spy", spy)),
        fx.inject_hyperparams(lambda lr: spy)(lr=0.1),
    )
    tx.update([torch.ones(1)], tx.init([torch.ones(1)]), value=1.5)
    assert seen == [{"value": 1.5}] * 4


def test_masked_hands_the_others_on():
    tx = fx.masked(fx.set_to_zero(), {"w": True, "b": False})
    updates = {"w": torch.ones(1), "b": torch.ones(1)}
    after, _ = tx.update(updates, tx.init(updates))
    assert after["b"] is updates["b"]
    assert_equal(after["w"], torch.zeros(1))
    assert_equal(fx.step(tx, updates, tx.init(updates), updates)[0], {"w": torch.ones(1), "b": torch.full((1,), 2.0)})


@rows([row for row in ALGORITHMS if not row.couples_leaves])
def test_partition_is_each_transform_on_its_own_leaves(row):
    tx = row(**row.richest)
    params = {"a": row.randn(3), "b": [row.randn(2), row.randn(2, 2)], "none": None}
    grads = {"a": row.randn(3), "b": [None, row.randn(2, 2)], "none": None}
    both = fx.partition({"first": tx, "second": fx.sgd(0.1)}, {"a": "first", "b": ["first", "second"], "none": None})
    stepped, state = fx.step(both, grads, both.init(params), params)
    first, first_state = fx.step(tx, grads["a"], tx.init(params["a"]), params["a"])
    assert_equal(stepped["a"], first)
    assert stepped["b"][0] is params["b"][0] and stepped["none"] is None
    assert_equal(stepped["b"][1], torch.add(params["b"][1], grads["b"][1], alpha=-0.1))
    for name, field in zip(first_state._fields, first_state):
        kept = getattr(state.inner_states["first"], name)
        if isinstance(field, torch.Tensor):
            assert_equal(kept["a"], field)
            assert kept["b"][1] == kept["none"] == ()


REORDERED = [
    {"b": True, "w": {"y": False, "x": True}},
    {"b": False, "w": True},
    {"w": {"y": True, "x": False}, "b": False},
]


@pytest.mark.parametrize("labels", REORDERED, ids=str)
def test_labels_go_by_key_and_not_by_order(labels):
    ones = {"w": {"x": torch.ones(1), "y": torch.ones(1)}, "b": torch.ones(1)}
    inside = labels["w"] if isinstance(labels["w"], dict) else {"x": labels["w"], "y": labels["w"]}
    expected = {
        "w": {key: torch.full((1,), 1.0 + inside[key]) for key in "xy"},
        "b": torch.full((1,), 1.0 + labels["b"]),
    }
    for tx in (
        fx.partition({True: fx.scale(2.0), False: fx.identity()}, labels),
        fx.masked(fx.scale(2.0), labels),
        fx.add_decayed_weights(1.0, mask=labels),
    ):
        assert_equal(tx.update(ones, tx.init(ones), ones)[0], expected)


def test_vmap_over_a_partition():
    tx = fx.partition({"a": fx.adam(), "b": fx.sgd()}, {"a": "a", "b": "b"})
    params = {"a": torch.randn(3, 2), "b": torch.randn(3, 4)}
    state = torch.vmap(tx.init)(params)
    stepped, _ = torch.vmap(lambda g, s, p: fx.step(tx, g, s, p))(params, state, params)
    expected, _ = fx.step(tx, params, tx.init(params), params)  # elementwise, so that stacking makes no difference
    assert_equal(stepped, expected, rtol=1e-6, atol=1e-6)


@cases()
def test_injection_changes_no_number(row, options):
    """Values in the state are float64, which holds a Python number exactly."""
    params = row.params()
    stepped, state = run(fx.inject_hyperparams(row.factory)(**options), params)
    assert_equal(stepped, run(row(**options), params)[0])
    assert state.step == 3
    numeric = {name for name, value in options.items() if isinstance(value, (float, tuple)) and value != 0}
    assert numeric <= set(state.hyperparams)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_injected_schedule_keeps_its_digits(compiled, fresh_compiler):
    """The step is handed to it as a number or in float64: an integer tensor would make 0.1 / step a float32."""
    params = [torch.ones(2, dtype=torch.float64)]
    tx, plain = (make(lr=lambda step: 0.1 / (step + 3)) for make in (fx.inject_hyperparams(fx.sgd), fx.sgd))
    step = torch.compile(fx.step, fullgraph=True, backend="eager") if compiled else fx.step
    stepped, _ = step(tx, params, tx.init(params), params)
    expected, _ = fx.step(plain, params, plain.init(params), params)
    assert_equal(stepped, expected, rtol=1e-15, atol=0)


def test_injected_values_are_read_replaced_and_scheduled():
    tx = fx.inject_hyperparams(fx.adamw)(lr=0.1, betas=(0.8, 0.9), weight_decay=lambda step: 0.5 ** (step + 1))
    params = [torch.ones(2)]
    state = tx.init(params)
    assert state.hyperparams["lr"] == 0.1
    assert state.hyperparams["betas"] == (0.8, 0.9)
    assert state.hyperparams["weight_decay"] == 0.5
    assert "amsgrad" not in state.hyperparams and "maximize" not in state.hyperparams
    replaced = state._replace(hyperparams={**state.hyperparams, "lr": torch.tensor(0.0)})
    for _ in range(2):
        stepped, replaced = fx.step(tx, params, replaced, params)
    assert_equal(stepped, params)  # lr = 0: neither step nor decoupled decay
    assert replaced.hyperparams["weight_decay"] == 0.25


def test_static_arguments_are_not_injected():
    tx = fx.inject_hyperparams(fx.sgd, static_args=["momentum"])(lr=0.1)
    state = tx.init([torch.ones(2)])
    assert "momentum" not in state.hyperparams
    assert state.inner_state.momentum_buffer == ()


def test_hyperparameters_may_be_numbers_tensors_or_schedules():
    """The three forms of one value give one result; in a pair of betas, too."""
    params = params_like()
    expected = run(fx.adam(0.1, betas=(0.8, 0.9)), params)[0]
    lr, beta = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    assert_equal(run(fx.adam(lr, betas=(0.8, beta)), params)[0], expected)
    assert_equal(run(fx.adam(lambda step: 0.1, betas=(lambda step: 0.8, lambda step: beta)), params)[0], expected)


@rows()
def test_every_hyperparameter_may_be_a_schedule(row):
    """A schedule sees 0, 1, 2, ... and its value is that step's."""
    params = row.params()
    numeric = {name: value for name, value in row.richest.items() if isinstance(value, float) and value}
    rest = {name: value for name, value in row.richest.items() if name not in numeric}
    seen = []

    def schedule(value):
        return lambda step: seen.append(step) or value * 0.9**step

    stepped, _ = run(row(**rest, **{name: schedule(value) for name, value in numeric.items()}), params)
    used = set(numeric) & set(row.rule.scalar_names if row.rule else numeric)
    assert sorted(set(seen)) == ([0, 1, 2] if used else [0])  # Rprop asks for its lr once

    torch.manual_seed(1)
    expected, state = params, row(**row.richest).init(params)
    for step in range(3):
        tx = row(**rest, **{name: value * 0.9**step for name, value in numeric.items()})
        expected, state = fx.step(tx, random_like(params), state, expected)
    assert_equal(stepped, expected)


def test_zero_is_a_number_that_switches_off_and_a_tensor_is_not():
    params = [torch.ones(2)]
    assert fx.sgd(momentum=0).init(params).momentum_buffer == ()
    assert len(leaves(fx.sgd(momentum=torch.tensor(0.0)).init(params).momentum_buffer)) == 1
    assert len(leaves(fx.sgd(momentum=lambda step: 0.0).init(params).momentum_buffer)) == 1


@pytest.mark.parametrize("row", ALGORITHMS, ids=lambda row: row.name)
def test_a_user_may_save_and_load_a_state(row, tmp_path):
    """A state is NamedTuples of tensors."""
    tx = row(**row.richest)
    params, state = run(tx, row.params())
    torch.save(state, tmp_path / "state")
    loaded = torch.load(tmp_path / "state", weights_only=False)
    grads = random_like(params)
    assert_equal(fx.step(tx, grads, loaded, params), fx.step(tx, grads, state, params))
