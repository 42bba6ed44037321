"""Gradients in COO form."""

from dataclasses import replace

import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases
from trees import assert_equal, clone

import optimfx as fx
from optimfx.execution.step import probe_step

EVERYTHING = ALGORITHMS + LINKS
ROWS, WIDTH = 6, 3
CLOSE = dict(rtol=8 * torch.finfo(torch.float64).eps, atol=8 * torch.finfo(torch.float64).eps)
"""One rule on other shapes: a CPU's vectorised loops fuse a multiplication and an addition, the scalar ones do not."""


@pytest.fixture(autouse=True)
def _checked():
    """torch.optim.Adagrad makes sparse tensors without saying whether they should be checked, which warns."""
    with torch.sparse.check_sparse_tensor_invariants():
        yield


def takes_sparse(row, options):
    update = row(**options).update
    return bool(row.rule and row.rule.sparse(probe_step(update).scalars))


def embedding_grad(rows, width=WIDTH, size=ROWS, dtype=torch.float64):
    """The gradient of a table of which these rows were looked up: uncoalesced where one is there twice."""
    return torch.sparse_coo_tensor(
        torch.tensor([rows], dtype=torch.int64),
        torch.randn(len(rows), width, dtype=dtype),
        (size, width),
        check_invariants=True,
    )


BATCHES = [[1, 4, 1], [4], [0, 1, 4, 4, 4], [], [5, 1]]


@cases(where=lambda row, options: row.torch_class is not None and takes_sparse(row, options))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_as_torch_on_uncoalesced_gradients(row, options, dtype):
    """Within 4 ulp a step: torch adds the parts of an uncoalesced gradient to the parameter one by one."""
    params = torch.randn(ROWS, WIDTH, dtype=dtype)
    theirs = torch.nn.Parameter(params.clone())
    optimizer = row.torch_class([theirs], **options)
    tx = row(**options)
    state = tx.init(params)
    tolerance = 4 * len(BATCHES) * torch.finfo(dtype).eps
    for batch in BATCHES:
        theirs.grad = embedding_grad(batch, dtype=dtype)
        params, state = fx.step(tx, theirs.grad.clone(), state, params)
        optimizer.step()
        assert_equal(params, theirs.detach(), rtol=tolerance, atol=tolerance)
        for name, value in optimizer.state[theirs].items():
            if value is not None:
                expected = torch.as_tensor(value, dtype=getattr(state, name).dtype)
                assert_equal(getattr(state, name), expected, rtol=tolerance, atol=tolerance)


@cases(EVERYTHING, where=takes_sparse)
def test_only_what_is_there_is_stepped(row, options):
    """The rows of a sparse gradient step as a smaller table would; the rest, and its slots, keep their bits."""
    tx = row(**options)
    params = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    state = tx.init(params)
    grad = embedding_grad([1, 4, 1])
    stepped, after = fx.step(tx, grad, state, params)
    updates, after_update = tx.update(grad, state, params)
    there, elsewhere = [1, 4], [0, 2, 3, 5]
    small_grad = grad.to_dense()[there]
    small, small_after = fx.step(tx, small_grad, tx.init(params[there]), params[there])
    assert_equal(stepped[there], small, **CLOSE)
    assert_equal(stepped[elsewhere], params[elsewhere])
    assert updates.is_sparse and updates.is_coalesced()
    assert_equal(fx.apply_updates(params, updates), stepped, **CLOSE)
    assert_equal(after, after_update)
    for slot, begun, small_slot in zip(after, state, small_after):
        if slot != () and slot.dim():
            assert_equal(slot[there], small_slot, **CLOSE)
            assert_equal(slot[elsewhere], begun[elsewhere])


@cases(EVERYTHING, where=takes_sparse)
def test_nothing_is_written_to_unless_given_up(row, options):
    tx = row(**options)
    params, grad = torch.randn(ROWS, WIDTH), embedding_grad([1, 4, 1], dtype=torch.float32)
    state = tx.init(params)
    before = clone((params, state))
    expected = fx.step(tx, grad, state, params)
    assert_equal((params, state), before)
    result = fx.step(tx, grad, state, params, inplace=True)
    assert_equal(result, expected)
    assert result[0] is params


def test_every_element_its_own_index_and_hybrid_tensors():
    """Sparse in all dimensions or in the first only: the same elements, the same step."""
    params = torch.randn(4, 3)
    dense = torch.zeros(4, 3)
    dense[1] = torch.randn(3)
    tx = fx.sparse_adam(lr=0.1)
    by_row = fx.step(tx, dense.to_sparse(1), tx.init(params), params)
    by_element = fx.step(tx, dense.to_sparse(2), tx.init(params), params)
    assert_equal(by_row, by_element)


def test_bfloat16_and_complex_tables():
    for dtype in (torch.bfloat16, torch.complex64):
        params = torch.randn(ROWS, WIDTH, dtype=dtype)
        grad = embedding_grad([1, 4, 1], dtype=dtype)
        tx = fx.sparse_adam(lr=0.1)
        stepped, _ = fx.step(tx, grad, tx.init(params), params)
        small, _ = fx.step(tx, grad.to_dense()[[1, 4]], tx.init(params[[1, 4]]), params[[1, 4]])
        assert_equal(stepped[[1, 4]], small)


def test_dense_and_sparse_leaves_in_one_tree():
    params = {"table": torch.randn(ROWS, WIDTH), "w": torch.randn(2)}
    grads = {"table": embedding_grad([1, 4, 1], dtype=torch.float32), "w": torch.randn(2)}
    tx = fx.chain(fx.clip_by_global_norm(0.1), fx.sgd(lr=0.1))
    stepped, _ = fx.step(tx, grads, tx.init(params), params)
    dense, _ = fx.step(tx, {**grads, "table": grads["table"].to_dense()}, tx.init(params), params)
    assert_equal(stepped, dense, rtol=1e-6, atol=1e-6)


REFUSED = [replace(row, options=[row.richest]) for row in ALGORITHMS if row.rule and not takes_sparse(row, row.richest)]


@cases(REFUSED)
@pytest.mark.parametrize("inplace", [False, True])
def test_rules_that_move_every_element_refuse_sparse_gradients(row, options, inplace):
    """And in a chain, before a link in front of it has written anything."""
    tx = fx.chain(fx.scale(2.0), row(**options))
    params = [torch.randn(ROWS, WIDTH)]
    state = tx.init(params)
    before = clone((params, state))
    with pytest.raises(ValueError, match=rf"^updates\[0\] is sparse, and {row.name} .*sparse_adam.*to_dense\(\)"):
        fx.step(tx, [embedding_grad([1, 4], dtype=torch.float32)], state, params, inplace=inplace)
    assert_equal((params, state), before)


def test_other_layouts_are_refused():
    params = {"w": torch.randn(2, 2)}
    tx = fx.sgd()
    with pytest.warns(UserWarning, match="Sparse CSR"):
        csr = torch.eye(2).to_sparse_csr()
    with pytest.raises(ValueError, match=r"updates\['w'\] has layout torch.sparse_csr .*torch.sparse_coo"):
        fx.step(tx, {"w": csr}, tx.init(params), params)
