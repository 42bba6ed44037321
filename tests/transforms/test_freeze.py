"""Frozen parameters stay, whatever their gradients."""

import pytest
import torch
from trees import assert_equal, clone, leaves

import optimfx as fx

PARAMS = {"w": torch.ones(2, 3), "b": torch.ones(3), "head": {"w": torch.ones(3)}}
GRADS = {"w": torch.full((2, 3), 0.5), "b": torch.full((3,), torch.nan), "head": {"w": torch.full((3,), 2.0)}}
MASK = {"w": False, "b": True, "head": False}
MASKS = {"tree": MASK, "function": lambda params: MASK}
ways = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@ways
@pytest.mark.parametrize("inplace", [True, False])
def test_frozen_leaves_stay(mask, inplace):
    for tx in (fx.chain(fx.sgd(0.1), fx.freeze(mask)), fx.selective_transform(fx.sgd(0.1), freeze_mask=mask)):
        found, _ = fx.step(tx, clone(GRADS), tx.init(PARAMS), clone(PARAMS), inplace=inplace)
        expected, _ = fx.step(fx.sgd(0.1), GRADS, fx.sgd(0.1).init(PARAMS), PARAMS)
        assert_equal(found, {**expected, "b": PARAMS["b"]})


@ways
def test_a_selective_transform_keeps_no_state_for_them(mask):
    state = fx.selective_transform(fx.adam(), freeze_mask=mask).init(PARAMS)
    assert sum(leaf.numel() for leaf in leaves(state) if leaf.dim()) == 2 * (6 + 3)


def test_freeze_refuses_what_is_no_transformation():
    with pytest.raises(TypeError, match="optimizer"):
        fx.selective_transform(fx.adam, freeze_mask=MASK)
