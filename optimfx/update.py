"""Updates to parameters."""

from __future__ import annotations

from typing import Any

from optimfx.core import GradientTransformation, Params, State, Updates, check_transformation, tree
from optimfx.execution import add_updates, run


def apply_updates(params: Params, updates: Updates, *, inplace: bool = False) -> Params:
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
    return tree.unflatten(spec, add_updates(old, increments, spec, inplace=inplace))


def step(
    tx: GradientTransformation,
    grads: Updates,
    state: State,
    params: Params,
    *,
    inplace: bool = False,
    **extra: Any,
) -> tuple[Params, State]:
    """One optimizer step, ``update`` and ``apply_updates`` in one: ``(params, state)``.

    Complete optimizers compute the new parameter itself rather than an increment, and so round as ``torch.optim``
    does; the two ways agree to a few ulp.

    Args:
        tx: the transformation.
        grads: gradients, a tree like the parameters; a leaf that is ``None`` sits out the step.
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
