"""Numbers of numpy's are numbers, and numbers are rounded as torch rounds what it stores."""

import fractions

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trees import assert_equal

import optimfx as fx
from optimfx import ops

KINDS = {"float32": np.float32, "float64": np.float64, "array": np.array, "fraction": fractions.Fraction}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())

FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64

MADE = {
    "adam": lambda of: fx.adam(lr=of(0.5), betas=(of(0.5), of(0.25))),
    "clip": lambda of: fx.clip_by_global_norm(of(0.5)),
    "schedule": lambda of: fx.sgd(lr=lambda step: of(0.5)),
    "injected": lambda of: fx.inject_hyperparams(fx.sgd)(lr=of(0.5)),
    "chain": lambda of: fx.chain(fx.momentum(of(0.5)), fx.scale(of(-2.0))),
}


@kinds
@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_numpy_numbers_are_hyperparameters(make, kind):
    params = {"w": torch.tensor([1.0, 2.0])}
    (expected, state), (found, other) = (
        fx.step(tx, params, tx.init(params), params) for tx in (make(float), make(kind))
    )
    assert_equal((found, other), (expected, state))


def test_integers_are_hyperparameters():
    params = {"w": torch.tensor([1.0, 2.0])}
    for tx in (fx.sgd(lr=np.int64(1)), fx.multi_steps(fx.sgd(lr=1.0), every=np.int64(1))):
        assert_equal(fx.step(tx, params, tx.init(params), params)[0]["w"], torch.zeros(2))


@pytest.mark.parametrize("of", [np.int64, np.array, np.float32])
def test_a_step_that_a_schedule_is_asked_for(of):
    for schedule in (
        fx.schedules.one_cycle(0.1, 10),
        fx.schedules.multi_step(0.1, [2, 4]),
        fx.schedules.cyclic(0.1, 1.0),
    ):
        assert [schedule(of(i)) for i in range(6)] == [schedule(i) for i in range(6)]


def test_arguments_of_schedules():
    expected = fx.schedules.multi_step(0.5, [2, 4])
    for schedule in (
        fx.schedules.multi_step(np.float64(0.5), np.array([2, 4])),
        fx.schedules.multi_step(0.5, [np.int64(2), np.int64(4)]),
    ):
        assert [schedule(i) for i in range(6)] == [expected(i) for i in range(6)]


@pytest.mark.parametrize("bad", [np.bool_(True), np.array([1.0, 2.0]), np.array("x")], ids=repr)
def test_other_objects_are_no_hyperparameters(bad):
    with pytest.raises(TypeError, match="lr must be a number"):
        fx.adam(lr=bad)
    with pytest.raises(ValueError, match=r"lr must be in \[0, inf\)"):
        fx.adam(lr=np.float32(-1))


@given(x=st.floats(-1e4, 1e4), y=st.floats(-1e4, 1e4), dtype=st.sampled_from(FLOATS))
def test_numbers_are_multiplied_as_torch_multiplies_a_stored_one(x, y, dtype):
    """In the dtype of the stored one, to the last bit."""
    assert ops.multiply_in(dtype, x, y) == (torch.tensor(x, dtype=dtype) * y).item()
