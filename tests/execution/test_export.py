"""torch.export: a step is exported, saved and loaded, with its state as it is."""

import io

import pytest
import torch
from catalogue import ALGORITHMS, LINKS, rows
from torch.utils import _pytree as pytree
from trees import assert_equal, random_like

import optimfx as fx

CHAIN = fx.chain(fx.clip_by_global_norm(1.0), fx.multi_steps(fx.nadam(1e-2), 2))


@rows(ALGORITHMS + LINKS)
def test_the_structure_of_a_state_is_written_and_read(row):
    state = row(**row.richest).init({"w": row.randn(3, 2), "b": [row.randn(4, 2)]})
    structure = pytree.tree_structure(state)
    assert pytree.treespec_loads(pytree.treespec_dumps(structure)) == structure


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("tx", [CHAIN, fx.inject_hyperparams(fx.adamw)(lr=1e-2)], ids=["chain", "injected"])
def test_a_step_is_exported_saved_and_loaded(tx, strict):
    class Step(torch.nn.Module):
        def forward(self, grads, state, params):
            return fx.step(tx, grads, state, params)

    params = {"w": torch.randn(3, 2), "b": [torch.randn(2)]}
    grads, state = random_like(params), tx.init(params)
    file = io.BytesIO()
    torch.export.save(torch.export.export(Step(), (grads, state, params), strict=strict), file)
    file.seek(0)
    step = torch.export.load(file).module()
    run = expected = params, state
    for _ in range(3):
        run, expected = step(grads, run[1], run[0]), fx.step(tx, grads, expected[1], expected[0])
    assert type(run[1]) is type(expected[1])
    assert_equal(run, expected, rtol=1e-6, atol=1e-6)
