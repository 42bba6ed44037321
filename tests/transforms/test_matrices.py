"""Leaves shown to a transformation as matrices: the same steps as of the matrices, in the leaves' own shapes."""

import copy
import pickle

import pytest
import torch
from trees import stack

import optimfx as fx

LEAVES = {"conv": (6, 2, 3, 3), "qkv": (12, 5), "experts": (2, 4, 3), "one": (4, 3)}
SPLIT = {
    "conv": fx.kernel_as_matrix,
    "qkv": lambda leaf: (3, 4, 5),
    "experts": fx.kernel_as_matrix,
    "one": fx.kernel_as_matrix,
}
SHAPES = {"conv": (6, 18), "qkv": (3, 4, 5), "experts": (2, 4, 3), "one": (4, 3)}


def random(dtype=torch.float64):
    return {name: torch.randn(shape, dtype=dtype) for name, shape in LEAVES.items()}


def as_shapes(tree):
    return {name: leaf.reshape(SHAPES[name]) for name, leaf in tree.items()}


def tx_of(**options):
    return fx.as_matrices(fx.muon(lr=0.1, ns_dtype=None, **options), SPLIT)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_as_matrices_steps_as_the_matrices_do(inplace, order):
    params, tx, inner = random(), tx_of(), fx.muon(lr=0.1, ns_dtype=None)
    params["conv"] = params["conv"].contiguous(memory_format=order)
    matrices = copy.deepcopy(as_shapes(params))
    state, plain = tx.init(params), inner.init(matrices)
    for step in range(3):
        grads = random()
        if step == 1:
            grads["one"] = None
        shaped = {name: None if g is None else g.reshape(SHAPES[name]) for name, g in grads.items()}
        before, kept = params, copy.deepcopy((params, state))
        params, state = fx.step(tx, grads, state, params, inplace=inplace)
        matrices, plain = fx.step(inner, shaped, plain, matrices)
        if inplace:
            assert all(params[name] is before[name] for name in params)
        else:
            torch.testing.assert_close(before, kept[0], rtol=0, atol=0)
        for name, leaf in params.items():
            assert leaf.shape == LEAVES[name]
            # One product in another memory order, of numbers about 1.
            torch.testing.assert_close(leaf.reshape(SHAPES[name]), matrices[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("inplace", [False, True])
def test_as_matrices_gives_updates_in_the_leaves_shapes(inplace):
    params, grads, tx = random(), random(), tx_of()
    state = tx.init(params)
    expected, _ = fx.muon(lr=0.1, ns_dtype=None).update(as_shapes(grads), tx.init(params), as_shapes(params))
    updates, _ = tx.update(copy.deepcopy(grads), state, params, inplace=inplace)
    torch.testing.assert_close(as_shapes(updates), expected, rtol=0, atol=0)
    assert {name: tuple(u.shape) for name, u in updates.items()} == LEAVES


def test_as_matrices_without_shapes_takes_kernels_for_matrices():
    params = random()
    assert {k: tuple(v.shape) for k, v in fx.as_matrices(fx.muon()).init(params).momentum_buffer.items()} == {
        **LEAVES,
        "conv": (6, 18),
    }


def test_as_matrices_under_vmap_and_in_one_graph():
    tx, models = tx_of(), [random() for _ in range(3)]
    grads = [random() for _ in range(3)]
    singles = [fx.step(tx, g, tx.init(p), p)[0] for g, p in zip(grads, models)]
    together = torch.vmap(lambda g, p: fx.step(tx, g, tx.init(p), p)[0])(stack(grads), stack(models))
    torch.testing.assert_close(together, stack(singles), rtol=0, atol=1e-13)
    compiled = torch.compile(lambda g, s, p: fx.step(tx, g, s, p), backend="eager", fullgraph=True)
    after, _ = compiled(grads[0], tx.init(models[0]), models[0])
    torch.testing.assert_close(after, singles[0], rtol=0, atol=1e-13)


def test_as_matrices_as_an_optimizer_resumes_from_a_checkpoint():
    params = [torch.nn.Parameter(torch.randn(4, 2, 3, 3)), torch.nn.Parameter(torch.randn(4, 3))]
    others = copy.deepcopy(params)
    tx = fx.as_matrices(fx.muon(lr=0.1))
    optimizer = fx.optim.TransformOptimizer(params, tx)

    def step(optimizer, params, seed):
        torch.manual_seed(seed)
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()

    step(optimizer, params, 0)
    resumed = fx.optim.TransformOptimizer(others, tx)
    step(resumed, others, 0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        step(optimizer, params, seed)
        step(resumed, others, seed)
    assert all(torch.equal(p, q) for p, q in zip(params, others))


def test_as_matrices_describes_itself_and_pickles():
    tx = fx.as_matrices(fx.muon())
    assert repr(tx).startswith("as_matrices(muon(")
    assert repr(pickle.loads(pickle.dumps(tx))) == repr(tx)
    (row,) = fx.explain(tx, [torch.ones(4, 2, 3, 3), torch.ones(4, 18)])
    assert (row.executor, row.leaves) == ("batched", 2)


@pytest.mark.parametrize(
    "make, kind, match",
    [
        (lambda: fx.as_matrices(fx.muon), TypeError, "as_matrices: inner must be a GradientTransformation"),
        (
            lambda: fx.as_matrices(fx.muon(), lambda leaf: (2, 2)).init({"w": torch.ones(3, 4)}),
            ValueError,
            r"shape_of gives params\['w'\] the shape \(2, 2\), which has another number of elements than its own",
        ),
        (
            lambda: fx.as_matrices(fx.muon(), {"v": fx.kernel_as_matrix}).init({"w": torch.ones(3, 4)}),
            ValueError,
            "shape_of is not a prefix of params",
        ),
        (
            lambda: (tx := fx.as_matrices(fx.muon())).update(
                {"w": torch.ones(4, 3)}, tx.init({"w": torch.ones(3, 4)}), {"w": torch.ones(3, 4)}
            ),
            ValueError,
            r"updates\['w'\] has shape \(4, 3\), but params\['w'\] has shape \(3, 4\)",
        ),
    ],
)
def test_as_matrices_refuses_bad_arguments(make, kind, match):
    with pytest.raises(kind, match=match):
        make()
