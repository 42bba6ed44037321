"""Functions of new and old tensors, beside Optax's."""

import numpy as np
import optax
import optax_runs  # noqa: F401 - float64 in JAX
import pytest
import torch
from trees import assert_equal, clone

import optimfx as fx

NEW = {"w": torch.randn(3, dtype=torch.float64), "b": [torch.randn(2, 2, dtype=torch.float64)]}
OLD = {"w": torch.randn(3, dtype=torch.float64), "b": [torch.randn(2, 2, dtype=torch.float64)]}


def arrays(tree):
    return {"w": tree["w"].numpy(), "b": [tree["b"][0].numpy()]}


@pytest.mark.parametrize("step_size", [0.0, 0.3, 1.0, torch.tensor(0.3, dtype=torch.float64)])
def test_a_part_of_the_way(step_size):
    before = clone((NEW, OLD))
    found = fx.incremental_update(NEW, OLD, step_size)
    expected = optax.incremental_update(arrays(NEW), arrays(OLD), float(step_size))
    np.testing.assert_allclose(
        found["w"], expected["w"], rtol=1e-13
    )  # two roundings apart, one of numbers that may cancel
    np.testing.assert_allclose(
        found["b"][0], expected["b"][0], rtol=1e-13
    )  # two roundings apart, one of numbers that may cancel
    assert_equal((NEW, OLD), before)


def test_a_part_of_the_way_in_the_old_dtype_and_where_both_are():
    old = {"w": torch.zeros(2, dtype=torch.bfloat16), "b": None}
    found = fx.incremental_update({"w": torch.ones(2), "b": torch.ones(1)}, old, 0.5)
    assert found["w"].dtype == torch.bfloat16
    assert found["b"] is None


@pytest.mark.parametrize("steps", range(7))
@pytest.mark.parametrize("number", [int, torch.tensor], ids=["number", "tensor"])
def test_periodic_update_copies_now_and_then(steps, number):
    found = fx.periodic_update(NEW, OLD, number(steps), 3)
    assert_equal(found, OLD if steps % 3 else NEW)


def test_updates_of_trees_under_vmap():
    """A model for each of several numbers of steps."""
    found = torch.vmap(lambda steps: fx.periodic_update(NEW, OLD, steps, 2)["w"])(torch.arange(4))
    assert_equal(found, torch.stack([NEW["w"], OLD["w"]] * 2))


@pytest.mark.parametrize("function", [fx.incremental_update, fx.periodic_update], ids=lambda f: f.__name__)
def test_trees_that_differ_are_refused(function):
    more = [2] if function is fx.incremental_update else [2, 3]
    with pytest.raises(ValueError, match="new_tensors"):
        function({"w": torch.ones(2)}, {"w": torch.ones(2), "b": torch.ones(1)}, *more)


def test_a_step_size_is_a_scalar():
    with pytest.raises((TypeError, ValueError), match="step_size"):
        fx.incremental_update(NEW, OLD, "a half")
