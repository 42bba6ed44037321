"""State surgery: what is found and set, and rows that are taken and appended go on as if they had never been others."""

import optax
import optax.tree_utils
import pytest
import torch
from catalogue import ALGORITHMS, rows
from trees import assert_equal

import optimfx as fx

TX = fx.chain(fx.clip_by_global_norm(1.0), fx.inject_hyperparams(fx.adamw)(lr=0.1), fx.ema(0.9))
PARAMS = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}


def test_what_is_found():
    state = TX.init(PARAMS)
    assert fx.tree_get(state, "lr").item() == 0.1
    assert fx.tree_get(state, "InjectHyperparamsState") is state[1]
    assert fx.tree_get(state, "exp_avg_sq") is state[1].inner_state.exp_avg_sq
    assert fx.tree_get(state, "nowhere") is None and fx.tree_get(state, "nowhere", 3) == 3
    paths = [path for path, _ in fx.tree_get_all_with_path(state, "w")]
    for path, value in fx.tree_get_all_with_path(state, "w"):
        assert eval(f"state{path}", {"state": state}) is value
    assert len(paths) == len(set(paths)) >= 3
    with pytest.raises(KeyError, match=r"several 'step': \[1\].step, "):
        fx.tree_get(state, "step")


def test_the_same_is_found_as_by_optax():
    """Fields of these names are in a chain of Optax's, too."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.inject_hyperparams(optax.sgd)(0.1))
    state = tx.init({"w": 1.0})
    for key in ("learning_rate", "hyperparams", "nowhere", "InjectStatefulHyperparamsState"):
        assert fx.tree_get(state, key) == optax.tree_utils.tree_get(state, key)


def test_what_is_set():
    state = TX.init(PARAMS)
    lr = torch.tensor(0.5, dtype=torch.float64)
    new = fx.tree_set(state, lr=lr, exp_avg={"w": 1, "b": 2})
    assert fx.tree_get(new, "lr") is lr and new[1].inner_state.exp_avg == {"w": 1, "b": 2}
    assert fx.tree_get(state, "lr").item() == 0.1
    assert_equal(new[1].inner_state.exp_avg_sq, state[1].inner_state.exp_avg_sq)
    with pytest.raises(KeyError, match="nothing under 'rate'"):
        fx.tree_set(state, rate=1)


ROWWISE = [row for row in ALGORITHMS if row.rule and row.rule.elementwise and not row.couples_leaves]


@rows(ROWWISE)
def test_rows_go_on_as_they_were(row):
    """Steps before and after a cut are those of the rows that are left, and of new ones beside them."""
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return {"w": torch.randn(n, 3, generator=generator, dtype=torch.float64)}

    tx, params, extra = row(**row.richest), draw(5), draw(2)["w"]
    kept = torch.tensor([4, 1, 1])
    state = tx.init(params)
    part = {"w": params["w"][kept]}
    part_state = tx.init(part)
    for _ in range(3):
        grads = draw(5)
        params, state = fx.step(tx, grads, state, params)
        part, part_state = fx.step(tx, {"w": grads["w"][kept]}, part_state, part)
    params, state = fx.take_rows(params, state, {"w": kept})
    assert_equal(params, part)
    assert_equal(state, part_state)
    longer, longer_state = fx.append_rows(tx, params, state, {"w": extra})
    assert_equal(fx.take_rows(longer, longer_state, torch.arange(3)), (params, state))
    beginning = fx.take_rows(longer, longer_state, torch.arange(3, 5))[1]
    assert_equal(beginning[1 + len(row.rule.carries) :], tx.init({"w": extra})[1 + len(row.rule.carries) :])
    for _ in range(2):
        grads = draw(5)
        longer, longer_state = fx.step(tx, grads, longer_state, longer)
        part, part_state = fx.step(tx, {"w": grads["w"][:3]}, part_state, part)
    assert_equal(longer["w"][:3], part["w"])
    assert longer["w"].shape == (5, 3)


def test_a_mask_a_prefix_and_leaves_that_stay():
    params = {"points": {"xyz": torch.arange(6.0).view(3, 2), "size": torch.arange(3.0)}, "b": torch.ones(4)}
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.adam(0.1))
    params, state = fx.step(tx, params, tx.init(params), params)
    before = params["b"], state[1].exp_avg["b"]
    params, state = fx.take_rows(params, state, {"points": torch.tensor([True, False, True]), "b": None})
    assert [t.shape[0] for t in params["points"].values()] == [2, 2]
    assert [t.shape[0] for t in state[1].exp_avg["points"].values()] == [2, 2]
    assert params["b"] is before[0] and state[1].exp_avg["b"] is before[1]
    fx.step(tx, params, state, params)


def test_a_state_without_rows_is_refused():
    params = {"w": torch.ones(4, 3)}
    tx = fx.scale_by_sm3()
    with pytest.raises(ValueError, match=r"state\['w'\] has shape \(7,\).*begin the state anew"):
        fx.take_rows(params, tx.init(params), torch.tensor([0]))
    with pytest.raises(ValueError, match="rows is not a prefix"):
        fx.take_rows(params, tx.init(params), {"v": torch.tensor([0])})


def test_a_function_is_mapped_over_what_is_like_a_parameter():
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.inject_hyperparams(fx.adamw)(lr=0.1), fx.scale_by_factored_rms())
    params = {"layers": [torch.zeros(200, 130), torch.zeros(3)], "none": None}
    state, names = tx.init(params), {"layers": ["first", "second"], "none": None}
    named = fx.tree_map_params(tx, lambda x, name: (name, tuple(x.shape)), state, names)
    assert named[1].inner_state.exp_avg == {"layers": [("first", (200, 130)), ("second", (3,))], "none": ()}
    assert named[1].inner_state.step is not None and named[1].hyperparams == state[1].hyperparams
    assert_equal(named[1].inner_state.step, state[1].inner_state.step)
    zeroed = fx.tree_map_params(tx, lambda x: x + 1, state, transform_non_params=lambda x: "other")
    assert zeroed[1].hyperparams == {"lr": "other", **dict.fromkeys(zeroed[1].hyperparams, "other")} | {
        "betas": ("other", "other")
    }
    assert zeroed[1].inner_state.step == {"layers": ["other", "other"], "none": ()}
    assert (zeroed[1].inner_state.exp_avg["layers"][1] == 1).all()


def test_a_state_of_one_tensor_is_mapped_too():
    tx, params = fx.sgd(0.1, momentum=0.9), torch.zeros(3)
    assert fx.tree_map_params(tx, lambda x: x.shape, tx.init(params)).momentum_buffer == (3,)


def test_other_trees_must_be_like_the_parameters():
    tx, params = fx.adam(0.1), {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match="rest does not have the structure of the parameters"):
        fx.tree_map_params(tx, lambda x, y: y, tx.init(params), {"v": 1})
