"""Teaches the compiler of torch 2.11 and 2.12 to trace pytrees of every optree."""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from typing import Any

import optree
import torch
from torch.torch_version import TorchVersion

_nodes: dict[str, dict[Any, Any]] = {}
"""By namespace, how classes are taken apart."""


def _read(namespace: str) -> bool:
    """Read optree's registry."""
    registry: Any = optree.register_pytree_node
    _nodes[namespace] = registry.get(None, namespace=namespace)
    return True


def _lookup(cls: type[Any], /, *, namespace: str = "") -> Any:
    """How instances of a class are taken apart; ``None`` for a leaf."""
    _read(namespace)
    found = _nodes[namespace].get(cls)
    return _nodes[namespace].get(namedtuple) if found is None and optree.is_namedtuple_class(cls) else found


def teach() -> None:
    """Have optree's lookup traced as :func:`_lookup`: its own compares ``sys.version_info`` from optree 0.20 on.

    Which the compiler can do from torch 2.13 on. To be called in a graph, before trees are taken apart.
    """
    if torch.__version__ < "2.13" and TorchVersion(optree.__version__) >= "0.20":
        _substitute()


@cache  # once
def _substitute() -> None:
    torch.compiler.substitute_in_graph(optree.register_pytree_node.get, skip_signature_check=True)(_lookup)


# The flag that torch.compiler.assume_constant_result sets; importing that takes a second.
_read._dynamo_marked_constant = True  # type: ignore[attr-defined]
teach._dynamo_marked_constant = True  # type: ignore[attr-defined]
