"""Measurements of what passes, kept in the state."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import FLOAT32, Array, GradientTransformation, Locality, PyTree, Rule, Scalar
from optimfx.execution import transformation


class MonitorState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates seen
    norm: PyTree  # shape=() per leaf: 2-norm of the last update
    ratio: PyTree  # shape=() per leaf: that over the 2-norm of the parameter
    nonfinite: PyTree  # shape=() per leaf: how many of its elements were infinite or NaN


class Scalars(NamedTuple):
    pass


def scalars(step: Scalar) -> Scalars:
    return Scalars()


def init(param: Array) -> tuple[Array, Array, Array]:
    return ops.zeros(param, ()), ops.zeros(param, ()), ops.zeros(param, ())


def leaf(
    base: Array, param: Array, update: Array, norm: Array, ratio: Array, nonfinite: Array, s: Scalars
) -> tuple[Array, ...]:
    norm = ops.norm_tensor(update)
    return ops.add(base, update), norm, norm / ops.norm_tensor(param), ops.nonfinite(update)


MONITOR = Rule(leaf, scalars, init, MonitorState, reads_param=lambda s: True, locality=Locality.TENSOR)


def monitor() -> GradientTransformation:
    r"""Hand the updates on, and keep for each leaf how large they are, and how many elements are not finite.

    .. math::
        \lVert u \rVert_2, \qquad \lVert u \rVert_2 / \lVert \theta \rVert_2, \qquad
        |\{i : u_i \text{ is not finite}\}|

    First in a chain it sees the gradients, last the final updates: there a ratio of about 0.001 is usual.
    The measurements stay on the device: nothing waits for them until you look.

    Returns:
        A transformation with state :class:`MonitorState`: ``step``, ``norm``, ``ratio``, ``nonfinite``, each a
        scalar in single precision for each leaf.

    Raises:
        ValueError: at ``update``, no ``params``.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.monitor(), fx.sgd(lr=0.1), fx.monitor())
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> params, state = fx.step(tx, {"w": torch.tensor([5.0, torch.nan])}, tx.init(params), params)
    >>> state[0].nonfinite["w"]
    tensor(1.)
    >>> params, state = fx.step(tx, {"w": torch.tensor([6.0, 8.0])}, tx.init(params), {"w": torch.tensor([3.0, 4.0])})
    >>> state[0].norm["w"], state[2].norm["w"], state[2].ratio["w"]
    (tensor(10.), tensor(1.), tensor(0.2000))
    """
    return transformation("monitor", MONITOR, state_dtype=FLOAT32)
