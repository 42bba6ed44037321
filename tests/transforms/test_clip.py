"""Clipping by the global norm at the edges of the gradients' dtype."""

import math

import pytest
import torch

import optimfx as fx

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


HOW = {
    "eager": lambda f: f,
    "vmap": lambda f: lambda g: [x[0] for x in torch.vmap(f)([x[None] for x in g])],
    "gradient": lambda f: lambda g: [x.detach() for x in f([x.requires_grad_() for x in g])],
    "jvp": lambda f: lambda g: torch.func.jvp(f, (g,), (g,))[0],
    "compiled": lambda f: torch.compile(f, fullgraph=True),
    "one op": lambda f: lambda g: torch.compile(f, fullgraph=True)([*g, *[torch.zeros(1)] * 40])[:2],
}


def clipped(values, max_norm=1.0, dtype=torch.float32):
    tx, grads = fx.clip_by_global_norm(max_norm), [torch.tensor([x], dtype=dtype) for x in values]
    return torch.cat(tx.update(grads, tx.init(grads), grads)[0])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_whose_squares_overflow(dtype, how, fresh_compiler):
    """The norm is measured so that they do not; except float64 in a transform or a graph, where no dtype is wider."""
    power = 0.45 if dtype is torch.float64 and how != "eager" else 0.9
    large = torch.finfo(dtype).max ** power
    tx = fx.clip_by_global_norm(1.0)
    grads = [torch.tensor([large], dtype=dtype) for _ in range(2)]
    found = HOW[how](lambda g: tx.update(g, fx.EmptyState(), g)[0])(grads)
    expected = 0.0 if how == "jvp" else math.sqrt(0.5)  # a derivative in the direction of the gradients
    torch.testing.assert_close(
        torch.cat(found), torch.full((2,), expected, dtype=dtype), atol=1e-2 * large * (how == "jvp"), rtol=1e-3
    )


RATIOS = {
    "ratio": (fx.scale_by_trust_ratio(), 1e30),
    "lars": (fx.lars(1.0, momentum=0.0), 1e30),
    "lamb": (fx.lamb(0.1), 1e18),  # whose second moment holds squares
}


@pytest.mark.parametrize("how", ["eager", "vmap", "compiled"])
@pytest.mark.parametrize("tx, size", RATIOS.values(), ids=RATIOS)
def test_norms_of_leaves_whose_squares_overflow(tx, size, how, fresh_compiler):
    """As of the same step in float64, where nothing overflows."""
    params, grads = [torch.full((2,), 1e25)], [torch.full((2,), size)]

    def step(g):
        wide = [p.to(g[0].dtype) for p in params]
        return fx.step(tx, g, tx.init(wide), wide)[0]

    expected = step([g.double() for g in grads])
    torch.testing.assert_close(HOW[how](step)(grads), [x.float() for x in expected])


def test_a_norm_that_is_no_number_makes_every_update_none():
    assert clipped([1.0, math.nan]).isnan().all()


def test_an_infinite_norm_leaves_nothing_of_finite_gradients():
    """As in torch and Optax."""
    assert clipped([1.0, math.inf])[0] == 0 and clipped([1.0, math.inf])[1].isnan()


def test_nothing_is_clipped_to_nothing():
    assert torch.equal(clipped([0.0, 0.0], max_norm=0.0), torch.zeros(2))


@pytest.mark.parametrize("max_norm", [5.0, 4.9, 5.1, torch.tensor(5.0)])
def test_the_bound_itself_is_within_the_bound(max_norm):
    scale = min(1.0, float(max_norm) / 5)
    torch.testing.assert_close(clipped([3.0, 4.0], max_norm), scale * torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64])
def test_the_norm_in_a_graph_is_of_the_dtype_that_it_has_outside(dtype, fresh_compiler):
    tree = [torch.ones(3, dtype=dtype)]
    torch.testing.assert_close(
        torch.compile(fx.global_norm, fullgraph=True, backend="eager")(tree), fx.global_norm(tree)
    )


def test_the_derivative_at_zero_is_that_of_what_is_within_the_bound():
    """A factor that is not chosen would divide by a norm of 0."""
    tx, params = fx.clip_by_global_norm(1.0), torch.zeros(3, dtype=torch.float64)

    def total(grads):
        return tx.update(grads, tx.init(params))[0].sum()

    assert torch.equal(torch.func.grad(total)(torch.zeros_like(params)), torch.ones_like(params))
