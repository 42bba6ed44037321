"""Supported leaves and trees."""

import dataclasses
import io
from typing import NamedTuple

import optree
import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, once_maximized, rows
from hypothesis import given
from hypothesis import strategies as st
from trees import assert_equal, leaves, random_like

import optimfx as fx

EVERYTHING = ALGORITHMS + LINKS


class Pair(NamedTuple):
    w: torch.Tensor
    b: torch.Tensor


@optree.dataclasses.dataclass(namespace="torch")
class Registered:
    w: torch.Tensor
    b: torch.Tensor
    width: int = optree.dataclasses.field(pytree_node=False, default=3)


@dataclasses.dataclass
class Torchs:
    w: torch.Tensor
    b: torch.Tensor


torch.utils._pytree.register_pytree_node(Torchs, lambda x: ([x.w, x.b], None), lambda leaves, _: Torchs(*leaves))

KINDS = {
    "tensor": lambda w, b: w,
    "list": lambda w, b: [w, b],
    "nested": lambda w, b: {"a": [w, {"c": (b,)}], "b": ()},
    "namedtuple": lambda w, b: Pair(w, b),
    "optree dataclass": lambda w, b: {"m": Registered(w, b)},
    "registered with torch": lambda w, b: {"m": Torchs(w, b)},
    "empty": lambda w, b: {},
}


@rows()
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_any_tree_of_leaves_steps_as_its_leaves(row, kind):
    """A tree steps as its leaves do in a list, and comes back in its own structure."""
    tx = row(**row.richest)
    w, b, gw, gb = row.randn(3, 2), row.randn(2), row.randn(3, 2), row.randn(2)
    tree, grads = kind(w, b), kind(gw, gb)
    spec = optree.tree_structure(tree, namespace="torch")
    flat, flat_grads = leaves_of(tree), leaves_of(grads)
    state, flat_state = tx.init(tree), tx.init(flat)
    for _ in range(3):
        tree, state = fx.step(tx, grads, state, tree)
        flat, flat_state = fx.step(tx, flat_grads, flat_state, flat)
    assert optree.tree_structure(tree, namespace="torch") == spec
    assert_equal(leaves_of(tree), flat)


def leaves_of(tree):
    return optree.tree_leaves(tree, namespace="torch")


@cases(EVERYTHING, column="None leaves", executors=True)
def test_a_leaf_without_gradient_is_left_alone(row, options, executor):
    tx = row(**options)
    params = {"a": row.randn(3), "skipped": row.randn(2), "b": row.randn(2)}
    grads = {**random_like(params), "skipped": None}
    rest = {name: leaf for name, leaf in params.items() if name != "skipped"}
    rest_grads = {name: leaf for name, leaf in grads.items() if name != "skipped"}
    before = params["skipped"]
    begun = state = tx.init(params)
    rest_state = tx.init(rest)
    with fx.execution.use(executor):
        for _ in range(3):
            updates, _ = tx.update(grads, state, params)
            params, state = fx.step(tx, grads, state, params)
            rest, rest_state = fx.step(tx, rest_grads, rest_state, rest)
    assert updates["skipped"] is None
    assert params.pop("skipped") is before
    assert_equal(params, rest)
    for field, first in zip(state, begun):
        if isinstance(field, dict):
            assert field.pop("skipped") is first["skipped"]
    assert_equal(state, rest_state)


@rows(EVERYTHING)
def test_a_parameter_that_is_not_there(row):
    """None in the parameters: no state, no update."""
    tx = row(**row.richest)
    params = {"a": row.randn(3), "none": None}
    state = tx.init(params)
    assert all(field["none"] == () for field in state if isinstance(field, dict))
    stepped, _ = fx.step(tx, {"a": row.randn(3), "none": None}, state, params)
    assert stepped["none"] is None


@cases(EVERYTHING, where=lambda row, options: not row.measures, column="complex", executors=True)
def test_complex_is_pairs_of_reals(row, options, executor):
    tx = row(**options)
    params = row.params(torch.complex128)
    pairs = optree.tree_map(lambda p: torch.view_as_real(p).clone(), params)
    state, pair_state = tx.init(params), tx.init(pairs)
    with fx.execution.use(executor):
        for _ in range(3):
            grads = random_like(params)
            params, state = fx.step(tx, grads, state, params)
            pair_grads = optree.tree_map(torch.view_as_real, grads)
            pairs, pair_state = fx.step(tx, pair_grads, pair_state, pairs)
    assert_equal(optree.tree_map(torch.view_as_real, params), pairs)
    if not row.evaluates:  # which keeps vectors of all parameters' parts
        assert all(leaf.is_complex() for leaf in leaves(state) if leaf.dim())


@cases(where=once_maximized, column="half precision", executors=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once(row, options, dtype, executor):
    """One step equals the float32 step from the same values, rounded."""

    def as_single(leaf):
        return leaf.float() if leaf.dtype == dtype else leaf

    tx = row(**options)
    params, grads = row.randn(64, dtype=dtype), row.randn(64, dtype=dtype)
    state = tx.init(params)
    with fx.execution.use(executor):
        stepped = fx.step(tx, grads, state, params)
        single = fx.step(tx, grads.float(), optree.tree_map(as_single, state), params.float())
    assert_equal(stepped[0], single[0].to(dtype))
    for half, full in zip(leaves(stepped[1]), leaves(single[1])):
        assert_equal(half, full.to(half.dtype))


@cases(
    where=lambda row, options: row.rule and row.takes("state_dtype") and once_maximized(row, options), executors=True
)
@pytest.mark.parametrize(
    "dtype, state_dtype", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
def test_rules_keep_the_state_dtype(row, options, executor, dtype, state_dtype):
    """The state has it, and one step equals the float32 step from the same values, each stored as it should be."""
    tx = row(**options, state_dtype=state_dtype)
    params, grads = row.randn(64, dtype=dtype), row.randn(64, dtype=dtype)
    state = tx.init(params)
    shared = 1 + len(row.rule.carries)
    assert all(slot.dtype == state_dtype for slot in leaves(state[shared:]))
    with fx.execution.use(executor):
        stepped, after = fx.step(tx, grads, state, params)
        single = type(state)(*state[:shared], *[optree.tree_map(torch.Tensor.float, slot) for slot in state[shared:]])
        expected, expected_after = fx.step(tx, grads.float(), single, params.float())
    assert_equal(stepped, expected.to(dtype))
    for kept, full in zip(leaves(after[shared:]), leaves(expected_after[shared:])):
        assert_equal(kept, full.to(state_dtype))
    assert_equal(after[:shared], expected_after[:shared])


@rows(EVERYTHING)
def test_every_state_may_have_its_own_dtype(row):
    slots = leaves(row(**row.richest).init(row.params()))
    assert row.takes("state_dtype") == any(slot.dtype == torch.float64 and slot.dim() for slot in slots)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_state_dtype_of_complex_parameters(dtype):
    state = fx.adam(state_dtype=dtype).init(torch.ones(2, dtype=torch.complex64))
    assert state.exp_avg.dtype == {torch.float64: torch.complex128}.get(dtype, torch.complex64)


# For links that couple the leaves there is test_global_norm_of_mixed_dtypes.
@cases(EVERYTHING, where=lambda row, options: options == row.richest and not row.couples_leaves, executors=True)
def test_mixed_dtypes_in_one_tree(row, options, executor):
    """Every leaf keeps its dtype and steps as if alone; a gradient may have another dtype than its parameter."""
    tx = row(**options)
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.float16, torch.float32]
    if "complex" in row.reasons:
        dtypes.remove(torch.complex64)
    params = [row.randn(3, dtype=dtype) for dtype in dtypes]
    grads = random_like(params)
    grads[-1] = grads[-1].bfloat16()
    with fx.execution.use(executor):
        stepped, state = fx.step(tx, grads, tx.init(params), params)
        alone = [fx.step(tx, [g], tx.init([p]), [p]) for g, p in zip(grads, params)]
    assert [leaf.dtype for leaf in stepped] == dtypes
    assert_equal(stepped, [p for (p,), _ in alone])
    for field, name in zip(state, state._fields):
        if field != ():
            assert_equal(field, [getattr(s, name)[0] for _, s in alone])


@rows([row for row in ALGORITHMS if row.dims == 2])
def test_a_stack_of_matrices_steps_as_each_alone(row):
    tx = row(**row.richest)
    stack, grads = row.randn(2, 3, 5, 4, dtype=torch.float64), row.randn(2, 3, 5, 4, dtype=torch.float64)
    stepped, _ = fx.step(tx, grads, tx.init(stack), stack)
    for i in range(2):
        for j in range(3):
            alone, _ = fx.step(tx, grads[i, j], tx.init(stack[i, j]), stack[i, j])
            assert_equal(stepped[i, j], alone, rtol=1e-12, atol=1e-12)


def test_global_norm_of_mixed_dtypes():
    tree = [torch.ones(3, dtype=torch.bfloat16), torch.tensor([3j, 4.0]), None, torch.tensor(4.0).double()]
    assert_equal(fx.global_norm(tree), torch.tensor(44.0).double().sqrt(), rtol=1e-6)
    assert_equal(fx.global_norm(tree[:1]), torch.tensor(3.0).sqrt(), rtol=1e-6)  # to bfloat16 it would be 1e-3 off
    assert fx.global_norm([]) == 0


def test_non_contiguous_leaves():
    params = torch.randn(4, 6).t()[::2]
    grads = torch.randn(4, 3).t()
    tx = fx.adamw()
    stepped, _ = fx.step(tx, grads, tx.init(params), params)
    expected, _ = fx.step(tx, grads.contiguous(), tx.init(params.contiguous()), params.contiguous())
    assert_equal(stepped, expected)
    whole = torch.zeros(4, 6)
    every_other = whole.t()[::2]
    fx.step(tx, torch.ones(3, 4), tx.init(every_other), every_other, inplace=True)
    assert_equal((whole != 0).float(), torch.tensor([1.0, 0.0] * 3).expand(4, 6))


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64])
LEAF = st.tuples(SHAPES, DTYPES)
TREES = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6
)


def build(tree, row):
    if isinstance(tree, tuple):
        shape, dtype = tree
        return row.randn(*shape, dtype=torch.float32 if dtype.is_complex and "complex" in row.reasons else dtype)
    return [build(x, row) for x in tree] if isinstance(tree, list) else {k: build(x, row) for k, x in tree.items()}


@rows()
@given(tree=TREES, data=st.data())
def test_any_tree_any_options_any_way(row, tree, data):
    """Structure, dtypes and shapes come back; executors agree bit for bit, out of place and in place."""
    tx = row(**data.draw(st.sampled_from(row.options)))
    params = build(tree, row)
    grads = random_like(params)
    state = tx.init(params)
    with fx.execution.use("eager"):
        expected = fx.step(tx, grads, state, params)
    for executor in row.executors:
        copies = optree.tree_map(torch.clone, (grads, params))
        with fx.execution.use(executor):
            assert_equal(fx.step(tx, grads, state, params), expected)
            assert_equal(fx.step(tx, copies[0], tx.init(params), copies[1], inplace=True), expected)
    assert optree.tree_structure(expected[0]) == optree.tree_structure(params)
    for before, after in zip(leaves(params), leaves(expected[0])):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


@rows(EVERYTHING)
def test_a_checkpoint_of_a_state_goes_on_where_it_was(row):
    """``torch.load`` takes it as it is."""
    tx = fx.multi_steps(fx.chain(row(**row.richest), fx.masked(fx.inject_hyperparams(fx.sgd)(lr=0.1), True)), 2)
    params = row.params()
    state = tx.init(params)
    for _ in range(3):
        params, state = fx.step(tx, random_like(params), state, params)
    file = io.BytesIO()
    torch.save((params, state), file)
    file.seek(0)
    loaded_params, loaded = torch.load(file)
    grads = random_like(params)
    assert_equal(fx.step(tx, grads, loaded, loaded_params), fx.step(tx, grads, state, params))
