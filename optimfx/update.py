"""Updates to parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optimfx import ops
from optimfx.core import (
    REAL,
    GradientTransformation,
    Updates,
    check_hyper,
    check_transformation,
    tree,
)
from optimfx.core.types import ParamsT, StateT
from optimfx.execution import add_updates, run


def apply_updates(params: ParamsT, updates: Updates, *, inplace: bool = False) -> ParamsT:
    """``params + updates``, leaf by leaf, in the parameters' dtypes; ``None`` leaves the parameter as it is.

    Args:
        params: the parameters.
        updates: a tree like them.
        inplace: write into the parameters and return them.

    Raises:
        ValueError: the structures or shapes differ; the message names the first path at which they do.
        TypeError: a parameter or an update is not a floating-point or complex tensor, or one is real and one complex.

    >>> import torch, optimfx as fx
    >>> fx.apply_updates({"w": torch.ones(2), "b": torch.ones(1)}, {"w": torch.tensor([1.0, -1.0]), "b": None})
    {'w': tensor([2., 0.]), 'b': tensor([1.])}
    """
    old, spec = tree.flatten(params)
    increments = tree.flatten_as(spec, updates, "updates", "params")
    after: ParamsT = tree.unflatten(spec, add_updates(old, increments, spec, inplace=inplace))
    return after


def step(
    tx: GradientTransformation,
    grads: Updates,
    state: StateT,
    params: ParamsT,
    *,
    inplace: bool = False,
    **extra: Any,
) -> tuple[ParamsT, StateT]:
    """One optimizer step, ``update`` and ``apply_updates`` in one: ``(params, state)``.

    Complete optimizers compute the new parameter itself rather than an increment, and so round as ``torch.optim``
    does; the two ways agree to a few ulp.

    Args:
        tx: the transformation.
        grads: gradients, a tree like the parameters; a leaf that is ``None`` is skipped.
        state: what ``tx.init`` or the last step returned.
        params: the parameters.
        inplace: reuse the buffers of ``grads``, ``state`` and ``params``, which the caller gives up, and record no
            gradients. Nothing is written if the call fails its checks.
        extra: handed to every link (a loss, a closure).

    Raises:
        ValueError, TypeError: the trees do not fit together; the message names the leaf.

    >>> import torch, optimfx as fx
    >>> tx = fx.sgd(lr=0.5)
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> params, state = fx.step(tx, {"w": torch.ones(2)}, tx.init(params), params)
    >>> params
    {'w': tensor([0.5000, 1.5000])}
    """
    check_transformation("tx", tx)
    return run(tx, grads, state, params, stepping=True, inplace=inplace, **extra)


def incremental_update(new_tensors: ParamsT, old_tensors: ParamsT, step_size: float | Tensor) -> ParamsT:
    r"""Go a part of the way from old tensors to new ones, as a target network follows a trained one.

    .. math::
        \theta' \to \theta' + \tau (\theta - \theta')

    Args:
        new_tensors: :math:`\theta`.
        old_tensors: :math:`\theta'`, a tree like them; ``None`` in either stays ``None``.
        step_size: :math:`\tau`, a number or a 0-d tensor, mostly in [0, 1].

    Returns:
        New tensors, in the dtypes of the old ones.

    Raises:
        ValueError, TypeError: the trees do not fit together; the message names the leaf.

    As a link that keeps the average in the state: :func:`~optimfx.ema_params`.

    >>> import torch, optimfx as fx
    >>> fx.incremental_update({"w": torch.tensor([2.0])}, {"w": torch.tensor([0.0])}, 0.25)
    {'w': tensor([0.5000])}
    """
    old, spec = tree.flatten(old_tensors)
    new = tree.flatten_as(spec, new_tensors, "new_tensors", "old_tensors")
    check_hyper(REAL, step_size=step_size)
    parts = [None if x is None or y is None else x + (y - x) * step_size for x, y in zip(old, new)]
    after: ParamsT = tree.unflatten(spec, [None if p is None else p.to(x.dtype) for p, x in zip(parts, old)])
    return after


def periodic_update(
    new_tensors: ParamsT, old_tensors: ParamsT, steps: int | Tensor, update_period: int | Tensor
) -> ParamsT:
    r"""Return the new tensors where ``steps`` is a multiple of ``update_period``, and else the old ones.

    Args:
        new_tensors: a tree.
        old_tensors: a tree like it.
        steps: how many steps have been taken: a number, or a 0-d tensor, for which nothing waits.
        update_period: at least 1.

    Returns:
        One of the trees; of tensors, where ``steps`` is one, new ones.

    Raises:
        ValueError, TypeError: the trees do not fit together; the message names the leaf.

    >>> import torch, optimfx as fx
    >>> new, old = {"w": torch.tensor([2.0])}, {"w": torch.tensor([0.0])}
    >>> [fx.periodic_update(new, old, steps, 3)["w"].item() for steps in (2, 3, 4)]
    [0.0, 2.0, 0.0]
    """
    old, spec = tree.flatten(old_tensors)
    new = tree.flatten_as(spec, new_tensors, "new_tensors", "old_tensors")
    due = steps % update_period == 0
    chosen = [None if x is None or y is None else ops.select_tree(due, y, x) for x, y in zip(old, new)]
    after: ParamsT = tree.unflatten(spec, chosen)
    return after
