"""Matrices of one shape in a stack: as leaf by leaf, in memory of their own, whatever leaves are mixed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optimfx as fx
from optimfx import optim
from optimfx.execution.executors import batched

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
SHAPES = [(4, 3), (3, 4), (2, 4, 3), (1, 5), (0, 3), (40, 50)]
TOLERANCE = {dtype: ulp * 2 * torch.finfo(dtype).eps for dtype, ulp in ((F64, 16), (F32, 16), (BF16, 3))}
"""Ulp of the largest numbers, between 2 and 4: products are summed in another order; in half precision one a step."""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SHAPES), st.sampled_from([F32, F64, BF16]), st.booleans()), min_size=2, max_size=9
    ),
    st.booleans(),
    st.sampled_from([64, 2048]),
)
def test_any_mixture_of_leaves_steps_as_leaf_by_leaf(kinds, inplace, largest):
    """Shapes, dtypes, memory orders, leaves without a gradient, small stacks and large leaves."""
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.muon(lr=0.1, ns_dtype=None))
    torch.manual_seed(0)
    params = [torch.randn(shape).to(dtype) for shape, dtype, _ in kinds]
    params = [p.mT.contiguous().mT if is_transposed else p for p, (*_, is_transposed) in zip(params, kinds)]
    before = batched.LARGEST, batched.STACKED
    batched.LARGEST, batched.STACKED = largest, 24
    try:
        found, expected = (params, tx.init(params)), (copy.deepcopy(params), tx.init(params))
        for step in range(3):
            grads = [None if step == i % 4 else torch.randn_like(p) for i, p in enumerate(params)]
            given_grads = copy.deepcopy(grads)
            found = fx.step(tx, grads, *found[::-1], inplace=inplace)
            with fx.execution.use("eager"):
                expected = fx.step(tx, given_grads, *expected[::-1], inplace=inplace)
            assert all(g is None or torch.equal(g, h) for g, h in zip(grads, given_grads))
    finally:
        batched.LARGEST, batched.STACKED = before
    for a, b in zip([*found[0], *found[1][1].momentum_buffer], [*expected[0], *expected[1][1].momentum_buffer]):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[a.dtype])


def test_leaves_have_memory_of_their_own():
    """A leaf that is kept does not keep the others; nothing that was given is written to."""
    params = [torch.randn(4, 3) for _ in range(5)]
    tx = fx.muon()
    state = tx.init(params)
    given_values = copy.deepcopy((params, state))
    after, state_after = fx.step(tx, params, state, params)
    leaves = [*after, *state_after.momentum_buffer]
    assert {leaf.untyped_storage().nbytes() for leaf in leaves} == {params[0].nbytes}
    assert len({leaf.data_ptr() for leaf in leaves}) == len(leaves)
    torch.testing.assert_close((params, state), given_values, rtol=0, atol=0)


def test_in_place_writes_into_the_tensors_that_were_given():
    params = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(5)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = optim.Muon(params)
    optimizer.step()
    places = [(p.data_ptr(), optimizer.state[p]["momentum_buffer"].data_ptr()) for p in params]
    versions = [p._version for p in params]
    optimizer.step()
    assert places == [(p.data_ptr(), optimizer.state[p]["momentum_buffer"].data_ptr()) for p in params]
    assert all(p._version > version for p, version in zip(params, versions))


def test_it_is_the_default_for_small_matrices_of_one_shape():
    small, large = [torch.ones(4, 3), torch.ones(4, 3)], [torch.ones(512, 512), torch.ones(512, 512)]
    assert [row.executor for row in fx.explain(fx.muon(), small)] == ["batched"]
    assert [row.executor for row in fx.explain(fx.muon(), large)] == ["eager"]
    assert [row.executor for row in fx.explain(fx.lamb(), small)] == ["eager"]


@pytest.mark.parametrize("make, reason", [(fx.sgd, "the rule is elementwise"), (fx.lamb, "the rule is not one on")])
def test_other_rules_are_refused(make, reason):
    params = [torch.ones(4, 3), torch.ones(4, 3)]
    tx = make(lr=0.1)
    with fx.execution.use("batched"), pytest.raises(ValueError, match=reason):
        fx.step(tx, params, tx.init(params), params)
