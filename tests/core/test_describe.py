"""``describe``, and what ``monitor`` measures of the updates that pass."""

import re

import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases

import optimfx as fx


@cases(ALGORITHMS + LINKS, where=lambda row, options: options == row.richest and not row.evaluates)
def test_every_algorithm_is_a_line_with_its_options(row, options):
    line = fx.describe(row(**options))
    assert line.startswith(f"{row.name}(")
    assert "\n" not in line
    for name, value in options.items():
        if value and isinstance(value, float):
            assert re.search(rf"\b{name}={re.escape(f'{value:g}')}(?![\d.])", line), line


def own(updates, params):
    return updates


def test_a_tree_of_every_combinator():
    tx = fx.named_chain(
        ("clip", fx.clip_by_value(1.0)),
        (
            "main",
            fx.partition({"a": fx.inject_hyperparams(fx.sgd)(lr=0.1), "b": fx.set_to_zero()}, {"w": "a", "v": "b"}),
        ),
        ("some", fx.masked(fx.scale(torch.tensor(2.0)), {"w": True, "v": False})),
        ("own", fx.stateless(own)),
        ("last", fx.chain(fx.lbfgs(), fx.scale_by_lr(fx.schedules.linear(0.1)))),
    )
    lines = [
        "named_chain",
        "├─ clip: clip_by_value(clip_value=1)",
        "├─ main: partition",
        "│  ├─ a: inject_hyperparams",
        "│  │  └─ sgd(lr=0.1)",
        "│  └─ b: set_to_zero()",
        "├─ some: masked",
        "│  └─ True: scale(factor=tensor(2))",
        "├─ own: stateless(function=own)",
        "└─ last: chain",
    ]
    assert fx.describe(tx).splitlines()[: len(lines)] == lines
    assert fx.describe(tx).splitlines()[-1] == "   └─ scale_by_lr(lr=linear(lr=0.1))"
    assert repr(fx.describe(tx)) == fx.describe(tx)


def test_with_parameters_it_says_how_they_run():
    params = {"w": torch.ones(3)}
    tx = fx.adamw()
    assert fx.describe(tx, params).endswith(repr(fx.explain(tx, params)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_monitor_measures_each_leaf(dtype):
    params = {"w": torch.randn(4, 3, dtype=dtype), "b": torch.randn(5, dtype=dtype)}
    grads = {"w": torch.randn(4, 3, dtype=dtype), "b": torch.full((5,), torch.nan, dtype=dtype)}
    tx = fx.monitor()
    updates, state = tx.update(grads, tx.init(params), params)
    assert all(torch.equal(updates[name], grads[name]) or name == "b" for name in grads)
    wide = torch.promote_types(dtype, torch.float32)
    norm, size = (torch.linalg.vector_norm(x["w"].to(wide)) for x in (grads, params))
    torch.testing.assert_close(state.norm["w"], norm.float())
    torch.testing.assert_close(state.ratio["w"], (norm / size).float())
    assert state.nonfinite["w"] == 0 and state.nonfinite["b"] == 5  # of a complex number, the real part


def test_monitor_waits_for_nothing(monkeypatch):
    params = [torch.randn(3), torch.randn(2)]
    tx = fx.monitor()
    state = tx.init(params)
    for waits in ("item", "tolist", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, waits, lambda self: pytest.fail("waits for the device"))
    # As if the counts were on the device too.
    monkeypatch.setattr("optimfx.execution.advance._read_column", lambda column, vector: column)
    monkeypatch.setattr("optimfx.core.hyperparams.read_number", lambda x: x)
    monkeypatch.setattr("optimfx.core.tracing.read_number", lambda x: x)
    tx.update(params, state, params)
