"""Trees to test on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
import torch


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype)


def params_like(dtype: torch.dtype = torch.float64, randn: Callable[..., torch.Tensor] = randn) -> dict[str, Any]:
    """A nested tree with a matrix, vectors, a 0-d and an empty leaf."""

    def leaf(*shape: int) -> torch.Tensor:
        return randn(*shape, dtype=dtype)

    return {"w": leaf(4, 3), "layers": [leaf(3), (leaf(), {"b": leaf(2, 1, 2)})], "none": leaf(0, 2)}


def random_like(tree: Any) -> Any:
    return optree.tree_map(torch.randn_like, tree)


def leaves(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in optree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def stack(trees: list[Any]) -> Any:
    return optree.tree_map(lambda *xs: torch.stack(xs), *trees)


def clone(tree: Any) -> Any:
    return optree.tree_map(torch.clone, tree)


def assert_equal(a: Any, b: Any, **tolerance: Any) -> None:
    """The same structure, and leaf by leaf the same dtype, shape and (without a tolerance) bits."""
    (left, left_spec), (right, right_spec) = (optree.tree_flatten(tree, none_is_leaf=True) for tree in (a, b))
    assert left_spec == right_spec
    for x, y in zip(left, right):
        if isinstance(y, torch.Tensor):
            torch.testing.assert_close(x, y, **{"rtol": 0, "atol": 0, "equal_nan": True, **tolerance})
        else:
            assert x == y
