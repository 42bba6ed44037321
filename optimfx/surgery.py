"""State surgery: find and replace what a state holds, and cut or extend parameters together with their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from optimfx.core import GradientTransformation, tree
from optimfx.core.types import Array, Params, PyTree, State


def tree_get_all_with_path(state: PyTree, key: str) -> list[tuple[str, Any]]:
    """Find everything that a tree holds under a name.

    Args:
        state: a tree, such as the state of a chain.
        key: a field of a NamedTuple, the name of its class, or a key of a dict.

    Returns:
        Each place, as one would write it after the name of the tree, with its value.

    As Optax's, whose places are tuples of keys, and which has a filter.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.inject_hyperparams(fx.sgd)(lr=0.1), fx.ema(0.9))
    >>> fx.tree_get_all_with_path(tx.init({"w": torch.zeros(1)}), "step")
    [('[0].step', tensor(0)), ('[0].inner_state.step', {'w': tensor(0.)}), ('[1].step', {'w': tensor(0.)})]
    """
    found = [("", state)] if type(state).__name__ == key and isinstance(state, tuple) else []
    for name, path, child in _children(state):
        below = [("", child)] if name == key else tree_get_all_with_path(child, key)
        found += [(path + rest, x) for rest, x in below]
    return found


def tree_get(state: PyTree, key: str, default: Any = None) -> Any:
    """Get the one value that a tree holds under a name, or ``default``.

    Args:
        state: a tree, such as the state of a chain.
        key: a field of a NamedTuple, the name of its class, or a key of a dict.
        default: what to return where there is none.

    Raises:
        KeyError: there are several.

    As Optax's, which has a filter.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.clip_by_global_norm(1.0), fx.inject_hyperparams(fx.sgd)(lr=0.1))
    >>> fx.tree_get(tx.init({"w": torch.zeros(1)}), "lr")
    tensor(0.1000, dtype=torch.float64)
    """
    found = tree_get_all_with_path(state, key)
    if len(found) > 1:
        raise KeyError(f"there are several {key!r}: {', '.join(path for path, _ in found)}; take one of these.")
    return found[0][1] if found else default


def tree_set(state: PyTree, /, **values: Any) -> PyTree:
    """Replace everything that a tree holds under these names; the tree itself stays as it is.

    Args:
        state: a tree, such as the state of a chain.
        values: what to put under each name.

    Returns:
        The new tree.

    Raises:
        KeyError: there is nothing under one of the names.

    As Optax's, which has a filter.

    >>> import torch, optimfx as fx
    >>> tx = fx.inject_hyperparams(fx.adam)(lr=0.1)
    >>> state = fx.tree_set(tx.init({"w": torch.zeros(1)}), lr=torch.tensor(0.5, dtype=torch.float64))
    >>> fx.tree_get(state, "lr")
    tensor(0.5000, dtype=torch.float64)
    """
    for key in values:
        if not tree_get_all_with_path(state, key):
            raise KeyError(f"there is nothing under {key!r}.")
    return _replace(state, values)


MARKER = "optimfx: in place of the parameters"
"""The key of a placeholder tree: where it appears in a new state, the real state has a tree like the parameters."""


def tree_map_params(
    tx: GradientTransformation,
    f: Callable[..., Any],
    state: State,
    /,
    *rest: PyTree,
    transform_non_params: Callable[[Any], Any] | None = None,
) -> State:
    """Map a function over those entries of a state that are like a parameter: moments, averages, copies.

    Args:
        tx: the transformation of the state, which must take any tree of matrices: not one with a tree of labels or
            masks, where a function would do.
        f: ``(entry, *others) -> entry``, with the entry of each tree of ``rest`` for the same parameter.
        state: the state.
        rest: trees like the parameters.
        transform_non_params: what to do with the others, such as counts, hyperparameters and factors of another shape;
            ``None`` leaves them.

    Returns:
        A tree like the state.

    Raises:
        ValueError: a tree of ``rest`` is not like the parameters.

    As Optax's, without ``is_leaf``. Here a count stands for each parameter; it is not like one.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.adam(1e-3), {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
    >>> shards = {"w": "rows", "b": "whole"}
    >>> state = fx.tree_map_params(tx, lambda x, shard: shard, tx.init(params), shards)
    >>> state.exp_avg
    {'w': 'rows', 'b': 'whole'}
    >>> state.step
    {'w': tensor(0.), 'b': tensor(0.)}
    """
    marker = torch.zeros(2, 3)

    def other(node: PyTree) -> PyTree:
        if transform_non_params is None:
            return node
        leaves, spec = tree.flatten(node)
        return tree.unflatten(spec, [None if x is None else transform_non_params(x) for x in leaves])

    def walk(begun: PyTree, node: PyTree) -> PyTree:
        if isinstance(begun, dict) and list(begun) == [MARKER]:
            of_marker = begun[MARKER]
            if not isinstance(of_marker, Tensor) or of_marker.shape != marker.shape:
                return other(node)
            spec = tree.flatten(_filled(node))[1]
            leaves: list[Any] = spec.flatten_up_to(node)
            others = [tree.flatten_as(spec, each, "rest", "the parameters") for each in rest]
            there = [x is not None and x != () for x in leaves]
            mapped = [f(x, *[each[i] for each in others]) if there[i] else x for i, x in enumerate(leaves)]
            return tree.unflatten(spec, mapped)
        pairs = list(zip(_children(begun), _children(node)))
        return _with_children(node, [walk(a, b) for (_, _, a), (_, _, b) in pairs]) if pairs else other(node)

    return walk(tx.init({MARKER: marker}), state)


def _children(node: PyTree) -> Iterator[tuple[str | None, str, Any]]:
    """For each child of a node its name, its place and itself."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield key, f"[{key!r}]", child
    elif hasattr(node, "_fields"):
        for name, child in zip(node._fields, node):
            yield name, f".{name}", child
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield None, f"[{i}]", child


def _replace(node: PyTree, values: dict[str, Any]) -> PyTree:
    if type(node).__name__ in values and isinstance(node, tuple):
        return values[type(node).__name__]
    return _with_children(
        node, [values[name] if name in values else _replace(child, values) for name, _, child in _children(node)]
    )


def _filled(node: PyTree) -> PyTree:
    """Put a leaf where a state has nothing for a parameter."""
    return None if node == () else _with_children(node, [_filled(child) for _, _, child in _children(node)])


def _with_children(node: PyTree, children: list[Any]) -> PyTree:
    """Return a node of the same kind with other children; a leaf, which has none, as it is."""
    if isinstance(node, dict):
        return dict(zip(node, children))
    if hasattr(node, "_fields"):
        return type(node)(*children)
    return type(node)(children) if isinstance(node, (list, tuple)) else node


def take_rows(params: Params, state: State, rows: PyTree) -> tuple[Params, State]:
    """Take rows of parameters, and of their state: to prune, to reorder, to repeat.

    Args:
        params: a tree of tensors.
        state: that of any transformation for them.
        rows: a tree like the parameters, or a prefix of it: for each leaf the rows to take, as indices or a mask, or
            ``None`` for a leaf that stays whole. A row is an entry of the first dimension.

    Returns:
        The new parameters, and a state for them: moments have the rows of their parameter, counts stay.

    Raises:
        ValueError: the state has a tensor whose first dimension is not that of its parameter; begin it anew with
            ``init``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.sgd(lr=0.1, momentum=0.9), {"w": torch.tensor([1.0, 2.0, 3.0]), "b": torch.zeros(2)}
    >>> params, state = fx.step(tx, params, tx.init(params), params)
    >>> params, state = fx.take_rows(params, state, {"w": torch.tensor([2, 0]), "b": None})
    >>> params["w"], state.momentum_buffer["w"], state.step["w"]
    (tensor([2.7000, 0.9000]), tensor([3., 1.]), tensor(1.))
    """
    return _edit_rows(params, state, rows, lambda x, taken: x[taken])


def append_rows(tx: GradientTransformation, params: Params, state: State, new: PyTree) -> tuple[Params, State]:
    """Append rows to parameters, and their beginnings to the state: to grow a vocabulary, a layer, a cloud of points.

    Args:
        tx: the transformation.
        params: a tree of tensors.
        state: that of ``tx`` for them.
        new: a tree like the parameters, or a prefix of it: for each leaf the rows to append, or ``None``.

    Returns:
        The new parameters, and a state for them: new rows have the moments with which ``tx`` begins, counts stay.

    Raises:
        ValueError: the state has a tensor whose first dimension is not that of its parameter; begin it anew with
            ``init``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.sgd(lr=0.1, momentum=0.9), {"w": torch.tensor([1.0, 2.0])}
    >>> params, state = fx.step(tx, params, tx.init(params), params)
    >>> params, state = fx.append_rows(tx, params, state, {"w": torch.tensor([5.0])})
    >>> params["w"], state.momentum_buffer["w"]
    (tensor([0.9000, 1.8000, 5.0000]), tensor([1., 2., 0.]))
    """
    spec = tree.flatten(params)[1]
    fresh = tree.unflatten(spec, tree.broadcast(new, params, "new", "params"))
    return _edit_rows(params, state, fresh, lambda x, rows: torch.cat([x, rows.to(x)]), tx.init(fresh))


def _edit_rows(
    params: Params, state: State, rows: PyTree, edit: Callable[[Tensor, Array], Tensor], of_state: PyTree = None
) -> tuple[Params, State]:
    """Edit the rows of the parameters, and of the trees in the state that are like them.

    The second argument of an edit is that in ``rows``; or that in ``of_state``, a state like the other, for those of a
    state.
    """
    leaves, spec = tree.flatten(params)
    edits = tree.broadcast(rows, params, "rows", "params")

    def edited(x: Any, i: int, name: str, given: Any) -> Any:
        if edits[i] is None or not isinstance(x, Tensor) or x.dim() == 0:
            return x
        if x.shape[0] != leaves[i].shape[0]:
            raise ValueError(
                f"{tree.path(spec, i, name)} has shape {tuple(x.shape)}, whose first dimension is not that of the "
                f"parameter, of shape {tuple(leaves[i].shape)}: begin the state anew with init."
            )
        return edit(x, given)

    def walk(node: PyTree, other: PyTree) -> PyTree:
        try:
            parts: list[Any] = spec.flatten_up_to(node)
        except ValueError:
            parts = []
        if parts and all([x is None or x == () or isinstance(x, Tensor) for x in parts]):
            given = edits if of_state is None else [None] * len(parts) if other == () else spec.flatten_up_to(other)
            return tree.unflatten(spec, [edited(x, i, "state", given[i]) for i, x in enumerate(parts)])
        others = [None] * len(node) if other is None and node else [child for _, _, child in _children(other)]
        return _with_children(node, [walk(child, own) for (_, _, child), own in zip(_children(node), others)])

    new = tree.unflatten(spec, [edited(x, i, "params", edits[i]) for i, x in enumerate(leaves)])
    return new, walk(state, of_state)
