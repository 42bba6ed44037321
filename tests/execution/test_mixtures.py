"""Trees that mix sizes, dtypes, layouts and states, by every executor of a CPU, against the eager one.

Packs and blocks are made small, so that a few leaves fill several of them.
"""

import copy

import hypothesis.strategies as st
import pytest
import torch
from agreement import assert_close
from hypothesis import HealthCheck, example, given, settings
from optree import tree_map
from trees import assert_equal, clone

import optimfx as fx
from optimfx.execution.memory import packing

SMALL, PACKED = 8, 20
RULES = {
    "no slots": fx.chain(fx.scale(2.0), fx.sgd(0.1)),
    "sgd": fx.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": fx.adam(0.1, weight_decay=0.1, amsgrad=True),
    "adamw": fx.adamw(0.1),
    "lion": fx.lion(0.1),
    "rmsprop": fx.rmsprop(0.1, centered=True),
    "clip, adam": fx.chain(fx.clip_by_global_norm(0.5), fx.adam(0.1)),
    "scale, momentum, lr": fx.chain(fx.scale(2.0), fx.momentum(0.9), fx.scale_by_lr(0.1)),
    "partition": fx.partition({True: fx.adamw(0.1), False: fx.sgd(0.1, momentum=0.5)}, fx.is_matrix),
}
LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.mT.clone(memory_format=torch.contiguous_format).mT if x.dim() > 1 else x.clone(),
    "with gaps": lambda x: x.new_zeros(*x.shape, 2).select(-1, 0).copy_(x),
}
leaf = st.tuples(
    st.sampled_from([(), (0,), (1,), (3,), (7,), (2, 3), (3, 3), (5, 7), (SMALL,), (SMALL + 1,)]),
    st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([None, None, None, torch.float64]),  # of one of its slots
    st.booleans(),  # whether it has a gradient
)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch):
    monkeypatch.setattr(packing, "SMALL", SMALL)
    monkeypatch.setattr(packing, "PACKED", PACKED)


def cast_slots(state, dtypes):
    """The state, in which the slots of the leaves, which are lists as long as the tree, have dtypes of their own."""

    def cast(node):
        if isinstance(node, list) and len(node) == len(dtypes):
            return [
                x if d is None or not isinstance(x, torch.Tensor) or x.dim() == 0 else x.to(d)
                for x, d in zip(node, dtypes)
            ]
        if isinstance(node, tuple):
            parts = list(map(cast, node))
            return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)
        return {k: cast(v) for k, v in node.items()} if isinstance(node, dict) else node

    return cast(state)


def made(leaves, seed):
    torch.manual_seed(seed)
    return [LAYOUTS[layout](torch.randn(shape, dtype=torch.float64).to(dtype)) for shape, dtype, layout, _, _ in leaves]


F32, BF16 = torch.float32, torch.bfloat16
TWO_PACKS = [((7,), F32, "contiguous", None, True)] * 5
SLOT_ALONE = [((7,), F32, "contiguous", None, True), ((7,), F32, "contiguous", torch.float64, True)]
GAPS = [((5, 7), F32, "with gaps", None, True), ((5, 7), F32, "with gaps", None, True)]


@given(
    st.lists(leaf, min_size=1, max_size=6),
    st.sampled_from(sorted(RULES)),
    st.sampled_from([None, "blocked", "foreach"]),
    st.booleans(),
    st.booleans(),
)
@example(TWO_PACKS, "adam", "blocked", True, False)
@example(TWO_PACKS, "lion", None, False, False)
@example(SLOT_ALONE, "adam", None, True, True)
@example(SLOT_ALONE, "lion", "foreach", True, False)
@example(GAPS, "rmsprop", "blocked", True, True)
@example(GAPS, "no slots", "blocked", True, True)
@example(GAPS, "rmsprop", "blocked", False, False)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_executor_agrees_on_whatever_trees(leaves, rule, executor, stepping, inplace):
    """And out of place, nothing that the caller holds is written."""
    tx, params = RULES[rule], made(leaves, 0)
    state = cast_slots(tx.init(params), [slot for *_, slot, _ in leaves])
    for seed in (1, 2):
        grads = [g if there else None for g, (*_, there) in zip(made(leaves, seed), leaves)]
        results = {}
        for name in ("eager", executor):
            given = [_laid_out(grads, leaves), copy.deepcopy(state), _laid_out(params, leaves)]
            kept = clone(given)
            with fx.execution.use(*[name, "eager"] if name else ()):
                if stepping:
                    results[name] = fx.step(tx, *given, inplace=inplace)
                else:
                    results[name] = tx.update(*given, inplace=inplace)
            if not inplace:
                assert_equal(given, kept)
        # In which order an update lies in memory is up to the executor.
        mine, eager = (tree_map(_in_order, results[name]) for name in (executor, "eager"))
        assert_close(mine, eager, eager)
        after, state = results["eager"]
        params = after if stepping else params


def _in_order(x):
    return x.clone(memory_format=torch.contiguous_format)


def _laid_out(tensors, leaves):
    return [None if x is None else LAYOUTS[layout](x) for x, (_, _, layout, _, _) in zip(tensors, leaves)]
