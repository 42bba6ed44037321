"""Pytrees of tensors, by optree: flattening, and the errors that name a leaf by its path.

``None`` is a leaf throughout: a parameter that is not there, or a gradient that did not come. Every transformation
leaves such a leaf, its state and its step count alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple, TypeAlias

import optree
import torch
import torch.utils._cxx_pytree  # fills the namespace
from optree import PyTreeSpec
from torch import Tensor

from optimfx.core import dynamo, tracing
from optimfx.core.types import Array, PyTree

NAMESPACE = "torch"
"""Where optree looks for registered classes: those of torch.utils.pytree, and those that optree
has for all namespaces. In it, dicts keep the order of their keys; only so can torch.compile trace them."""


LEAF_TYPES = frozenset({Tensor, torch.nn.Parameter, type(None)})
FIELD_TYPES = LEAF_TYPES | {tuple}


class DictOfLeaves(NamedTuple):
    """The structure of a dict of leaves, and of ``()`` where a state keeps nothing."""

    names: tuple[Hashable, ...]
    there: tuple[bool, ...] | None = None  # whether a leaf is under the name; ``None`` if one is under each

    @property
    def num_leaves(self) -> int:
        return len(self.names) if self.there is None else sum(self.there)

    def unflatten(self, leaves: Iterable[Any]) -> PyTree:
        if self.there is None:
            return dict(zip(self.names, leaves))
        rest = iter(leaves)
        return {name: next(rest) if there else () for name, there in zip(self.names, self.there)}

    def flatten_up_to(self, tree: PyTree) -> list[Array]:
        if type(tree) is dict and self.there is None:
            if tuple(tree) == self.names:
                return list(tree.values())
            if set(tree) == set(self.names):
                return [tree[name] for name in self.names]
        return _spec_of(self).flatten_up_to(tree)


class SequenceOfLeaves(NamedTuple):
    """The structure of a list or a tuple of leaves."""

    kind: type[list[Any]] | type[tuple[Any, ...]]
    num_leaves: int

    def unflatten(self, leaves: Iterable[Any]) -> PyTree:
        return self.kind(leaves)

    def flatten_up_to(self, tree: PyTree) -> list[Array]:
        if type(tree) is self.kind and len(tree) == self.num_leaves:
            return list(tree)
        return _spec_of(self).flatten_up_to(tree)


Structure: TypeAlias = DictOfLeaves | SequenceOfLeaves | PyTreeSpec


def flatten(tree: PyTree) -> tuple[list[Array], Structure]:
    """Flatten a tree to its leaves and the structure that puts them back; those of trees of one structure are equal.

    A dict, list or tuple of leaves is taken apart here. optree takes ten times as long, as it asks of each leaf whether
    its class is registered, and a compiler traces each of these questions.
    """
    kind = type(tree)
    if kind is dict:
        leaves = list(tree.values())
        types = set(map(type, leaves))
        if types <= LEAF_TYPES:
            return leaves, DictOfLeaves(tuple(tree))
        if types <= FIELD_TYPES and not any([type(x) is tuple and x for x in leaves]):
            there = tuple([type(x) is not tuple for x in leaves])
            return list(compress(leaves, there)), DictOfLeaves(tuple(tree), there)
    elif (kind is list or kind is tuple) and set(map(type, tree)) <= LEAF_TYPES:
        return list(tree), SequenceOfLeaves(kind, len(tree))
    if torch.compiler.is_compiling():
        dynamo.teach()
    return optree.tree_flatten(tree, none_is_leaf=True, namespace=NAMESPACE)


def _spec_of(structure: DictOfLeaves | SequenceOfLeaves) -> PyTreeSpec:
    """Return optree's structure of the same trees."""
    if torch.compiler.is_compiling():
        dynamo.teach()
    whole = structure.unflatten([None] * structure.num_leaves)
    return optree.tree_structure(whole, none_is_leaf=True, namespace=NAMESPACE)


def flatten_as(spec: Structure, tree: PyTree, name: str, like: str) -> list[Array]:
    """Return the subtrees of ``tree`` at the positions of the leaves of ``spec``.

    Raises:
        ValueError: the structures differ; the message names the first path at which they do.
    """
    try:
        return spec.flatten_up_to(tree)
    except ValueError as error:
        reference = unflatten(spec, [0] * spec.num_leaves)
        where = _mismatch(reference, tree, name, error)
        raise ValueError(
            f"{name} does not have the structure of {like}. {where}\n"
            f"Give {name} as a tree with one entry for each leaf of {like}; a leaf without a value is None."
        ) from None


def flatten_like(spec: Structure, tree: PyTree, likes: Sequence[Array], name: str) -> list[Array]:
    """Return the leaves of a tree like the parameters, of which some may be ``None``, once they fit these.

    Raises:
        ValueError, TypeError: the structures differ, or a leaf does not fit its parameter.
    """
    leaves = flatten_as(spec, tree, name, "params")
    for i, (leaf, like) in enumerate(zip(leaves, likes)):
        if leaf is not None:
            check_leaf(leaf, spec, i, name)
            check_counterpart(like, leaf, spec, i, ("params", name))
    return leaves


def unflatten(spec: Structure, leaves: Iterable[Any]) -> PyTree:
    """Build the tree that has this structure and these leaves."""
    return spec.unflatten(leaves)


def broadcast(prefix: PyTree, tree: PyTree, name: str, like: str) -> list[Array]:
    """Return for each leaf of ``tree`` the leaf of ``prefix`` that covers it.

    Raises:
        ValueError: ``prefix`` is not a prefix of ``tree``; the message names the first path at which it is not.
    """
    leaves, spec = flatten(prefix)
    whole, structure = flatten(tree)
    try:
        # Match by path: the keys of the two dicts may be in different orders.
        subtrees = spec.flatten_up_to(unflatten(structure, range(len(whole))))
    except ValueError as error:
        where = _mismatch(prefix, tree, name, error)
        raise ValueError(
            f"{name} is not a prefix of {like}. {where}\n"
            f"Give {name} as a tree like {like}, in which a leaf may stand for a whole subtree."
        ) from None
    placed: list[Array] = [None] * len(whole)
    for leaf, subtree in zip(leaves, subtrees):
        for i in (subtree,) if type(subtree) is int else flatten(subtree)[0]:
            placed[i] = leaf
    return placed


def global_norm(tree: PyTree) -> Tensor:
    """Measure the 2-norm of all elements of all leaves, as a 0-d tensor, in float32 at least.

    Elements whose squares would overflow are measured in float64, on a CPU only where they do.

    >>> import torch, optimfx as fx
    >>> fx.global_norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    tensor(5.)
    """
    leaves = [leaf for leaf in flatten(tree)[0] if leaf is not None]
    dtypes = {leaf.dtype for leaf in leaves}
    narrow = all(torch.promote_types(dtype, torch.complex64) == torch.complex64 for dtype in dtypes)
    total = norm_of_leaves(leaves)
    return total.float() if narrow and tracing.active() else total


def norm_of_leaves(leaves: list[Tensor]) -> Tensor:
    """Measure the 2-norm of all elements of these tensors."""
    if not leaves:
        return torch.zeros(())
    if True in {leaf.is_sparse for leaf in leaves}:
        leaves = [leaf.coalesce().values() if leaf.is_sparse else leaf for leaf in leaves]
    if tracing.active() or tracing.requires_autograd(*leaves):
        return _combine_norms([norm(leaf) for leaf in leaves])
    first = _measured_in(leaves[0])
    norms: list[Tensor] = []
    # On a GPU, two launches for all leaves, without a synchronization.
    for dtype in dict.fromkeys([leaf.dtype for leaf in leaves]):
        column = [leaf for leaf in leaves if leaf.dtype is dtype]
        norms += torch._foreach_norm(column, 2, dtype=torch.promote_types(dtype, first))
    total: Tensor = torch.linalg.vector_norm(_stacked(norms))
    return _combine_norms([norm(leaf) for leaf in leaves]) if total.is_cpu and total.isinf() else total


def norm(leaf: Tensor) -> Tensor:
    """Measure the 2-norm of the elements of a tensor, whose squares may overflow where it does not.

    On a CPU it is measured again where it is infinite: in float64 from the start, it would take seven times as long.
    A device without float64 has no such help.
    """
    seen = leaf.is_cpu and not (tracing.active() or tracing.requires_autograd(leaf))
    dtype = torch.promote_types(leaf.dtype, _measured_in(leaf) if seen else _widest_on(leaf.device))
    measured: Tensor = torch.linalg.vector_norm(leaf.to(dtype))
    if not seen or not measured.isinf():
        return measured
    leaf = leaf.to(torch.promote_types(leaf.dtype, torch.float64))
    largest: Tensor = torch.linalg.vector_norm(leaf, torch.inf)
    return largest if largest.isinf() else torch.linalg.vector_norm(leaf / largest) * largest


def _measured_in(leaf: Tensor) -> torch.dtype:
    """In which dtype a norm is measured first: where it cannot be looked at, in one in which no square overflows."""
    return torch.float32 if leaf.is_cpu else _widest_on(leaf.device)


def _widest_on(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _combine_norms(norms: Sequence[Tensor]) -> Tensor:
    """Combine the norms of all tensors."""
    return norm(_stacked(norms))


def _stacked(norms: Sequence[Tensor]) -> Tensor:
    if len({norm.device for norm in norms}) > 1:
        norms = [norm.to(norms[0].device) for norm in norms]
    return torch.stack(list(norms))


def dot_of_leaves(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    """Add up the products of elements, of the parts of complex ones, in float32 at least, and over all processes."""
    products = [(x.conj() * y).real if x.is_complex() else x * y for x, y in zip(xs, ys)]
    if not products:
        return torch.zeros(())
    total = _stacked([x.to(torch.promote_types(x.dtype, torch.float32)).sum() for x in products]).sum()
    summed: Tensor = add_up_processes(total)
    return summed


def add_up_processes(total: Array) -> Array:
    """Return a sum over all processes: a DTensor's is of each one's part, until it is asked for."""
    return total.full_tensor() if hasattr(total, "full_tensor") else total


def add_in_dtype(param: Tensor, increment: Tensor, inplace: bool) -> Tensor:
    """Add two tensors, in the dtype of the first, and in its memory if ``inplace``."""
    return param.add_(increment) if inplace else (param + increment).to(param.dtype)


def path(spec: Structure, index: int, name: str) -> str:
    """How a user would write the leaf: ``params['layers'][0]``."""
    whole = _spec_of(spec) if isinstance(spec, (DictOfLeaves, SequenceOfLeaves)) else spec
    return whole.accessors()[index].codify(name)


def check_leaf(leaf: Array, spec: Structure, index: int, name: str) -> None:
    """Refuse a leaf that no optimizer can step: anything but a floating-point or complex tensor."""
    if not isinstance(leaf, Tensor):
        raise TypeError(
            f"{path(spec, index, name)} is {_kind(leaf)}; every leaf must be a tensor or None. {_advice(leaf, name)}"
        )
    if not (leaf.is_floating_point() or leaf.is_complex()):
        raise TypeError(
            f"{path(spec, index, name)} has dtype {leaf.dtype}; an optimizer steps floating-point and complex tensors. "
            f"Put None in its place, or keep buffers like this one out of {name}."
        )


def check_counterpart(leaf: Array, other: Array, spec: Structure, index: int, names: tuple[str, str]) -> None:
    """Refuse leaves that no optimizer can step, or not together: one is missing, broadcast, or alone complex."""
    if leaf is not None:
        check_leaf(leaf, spec, index, names[0])
    check_leaf(other, spec, index, names[1])
    if leaf is not None and leaf.is_complex() != other.is_complex():
        raise TypeError(
            f"{path(spec, index, names[1])} has dtype {other.dtype}, but {path(spec, index, names[0])} has dtype "
            f"{leaf.dtype}; both must be real or both complex."
        )
    shape = None if leaf is None else tuple(leaf.shape)
    if shape != tuple(other.shape):
        raise ValueError(
            f"{path(spec, index, names[1])} has shape {tuple(other.shape)}, but {path(spec, index, names[0])} "
            f"{'is None' if leaf is None else f'has shape {shape}'}; the two must be equal."
        )


def _mismatch(prefix: PyTree, tree: PyTree, name: str, error: ValueError) -> str:
    """Where the prefix and the tree part, in optree's words, with the path."""
    errors = optree.prefix_errors(prefix, tree, none_is_leaf=True, namespace=NAMESPACE)
    return str(next((e(name) for e in errors), error))


def _advice(leaf: Array, name: str) -> str:
    """Suggest what to give instead of something that is not a tensor."""
    if isinstance(leaf, torch.nn.Module) or hasattr(leaf, "__next__"):
        return f"Give {name} as a tree of tensors, such as dict(model.named_parameters())."
    if isinstance(leaf, (bool, int, float, complex)) or hasattr(leaf, "__array__"):
        return f"Convert it with torch.as_tensor, or take it out of {name}."
    return "Take it out, or register its class with torch.utils._pytree.register_pytree_node if it holds tensors."


def _kind(leaf: Array) -> str:
    return f"{leaf!r} (a {type(leaf).__name__})" if isinstance(leaf, (int, float, str)) else f"a {type(leaf).__name__}"
