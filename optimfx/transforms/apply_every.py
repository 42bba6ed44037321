"""Updates that wait for one another."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import AT_LEAST_ONE, Array, DType, GradientTransformation, PyTree, Rule, Scalar, check_count
from optimfx.execution import transformation


class ApplyEveryState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    grad_acc: PyTree  # like the parameters: sum of the updates since the last that was applied


class Scalars(NamedTuple):
    keep: Scalar  # 0 where a sum begins, else 1
    emit: Scalar  # 1 where it is applied, else 0


def init(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def scalars(step: Scalar, k: Scalar) -> Scalars:
    return Scalars(ops.where((step - 1) % k == 0, 0, 1), ops.where(step % k == 0, 1, 0))


def leaf(base: Array, param: Array, update: Array, grad_acc: Array, s: Scalars) -> tuple[Array, Array]:
    grad_acc = ops.add(update, grad_acc, alpha=s.keep)
    return ops.add(base, grad_acc, alpha=s.emit), grad_acc


APPLY_EVERY = Rule(leaf, scalars, init, ApplyEveryState)


def apply_every(k: int = 1, *, state_dtype: DType | None = None) -> GradientTransformation:
    r"""Add up the updates of ``k`` steps, and apply the sum at the last of them; the others apply 0.

    Args:
        k: how many, at least 1.
        state_dtype: dtype of the sum; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`ApplyEveryState`.

    Raises:
        ValueError: ``k`` is not an integer of at least 1.

    Around an algorithm, :func:`~optimfx.multi_steps` steps on the mean of gradients; this adds up updates that an
    algorithm has made.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.apply_every(2), {"w": torch.zeros(2)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.tensor([1.0, 2.0])}, state)
    ...     print(updates["w"])
    tensor([0., 0.])
    tensor([2., 4.])
    """
    check_count(AT_LEAST_ONE, k=k)
    return transformation("apply_every", APPLY_EVERY, state_dtype=state_dtype, k=k)
