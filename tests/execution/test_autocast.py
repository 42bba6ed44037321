"""A step computes in its own precision, whatever autocast is around it."""

import torch
from catalogue import ALGORITHMS, cases
from trees import assert_equal, random_like

import optimfx as fx


@cases(ALGORITHMS, where=lambda row, options: row.rule is not None)
def test_autocast_changes_nothing(row, options):
    tx = row(**options)
    params = {"w": torch.randn(40, 30), "v": torch.randn(8, 5)}
    grads, state = random_like(params), tx.init(params)
    expected = fx.step(tx, grads, state, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(fx.step(tx, grads, state, params), expected)
