"""What a clip by the global norm makes of gradients at the edges of their dtype."""

import math

import pytest
import torch

import optimfx as fx

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def clipped(values, max_norm=1.0, dtype=torch.float32):
    tx, grads = fx.clip_by_global_norm(max_norm), [torch.tensor([x], dtype=dtype) for x in values]
    return torch.cat(tx.update(grads, tx.init(grads), grads)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_whose_squares_overflow(dtype):
    """The norm is measured in float32 at least, and once more in float64 where that overflows."""
    large = torch.finfo(dtype).max ** (0.9 if dtype is not torch.float64 else 0.45)
    expected = torch.full((2,), math.sqrt(0.5), dtype=dtype)
    torch.testing.assert_close(clipped([large, large], dtype=dtype), expected)


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
