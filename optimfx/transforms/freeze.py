"""Parameters that stay as they are."""

from __future__ import annotations

from optimfx.combinators.partition import Mask, masked, partition
from optimfx.core import GradientTransformation, check_transformation
from optimfx.transforms.set_to_zero import set_to_zero


def freeze(mask: Mask) -> GradientTransformation:
    """Replace the updates of some leaves by zeros, and hand on the others: the last link of a chain.

    An optimizer before it still keeps a state for the frozen leaves; :func:`selective_transform` does not.

    Args:
        mask: true for what is frozen: a tree of bools like the parameters, or a prefix of it, or a function from the
            parameters to either.

    Returns:
        A transformation with the state of :func:`~optimfx.masked`.

    Raises:
        ValueError: the mask holds something else than bools, or does not have the structure of the parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=0.5), fx.freeze({"w": False, "b": True}))
    >>> params = {"w": torch.ones(1), "b": torch.ones(1)}
    >>> fx.step(tx, params, tx.init(params), params)[0]
    {'w': tensor([0.5000]), 'b': tensor([1.])}
    """
    return masked(set_to_zero(), mask)


def selective_transform(optimizer: GradientTransformation, *, freeze_mask: Mask) -> GradientTransformation:
    """Step some leaves, and leave the others as they are, without a state for them.

    Args:
        optimizer: steps the leaves where the mask is false.
        freeze_mask: true for what is frozen: a tree of bools like the parameters, or a prefix of it, or a function from
            the parameters to either.

    Returns:
        A transformation with the state of :func:`~optimfx.partition`.

    Raises:
        TypeError: ``optimizer`` is not a transformation.
        ValueError: the mask holds something else than bools, or does not have the structure of the parameters.

    >>> import torch, optimfx as fx
    >>> tx = fx.selective_transform(fx.adam(lr=0.5), freeze_mask={"w": False, "b": True})
    >>> params = {"w": torch.ones(1), "b": torch.ones(1)}
    >>> fx.step(tx, params, tx.init(params), params)[0]
    {'w': tensor([0.5000]), 'b': tensor([1.])}
    """
    check_transformation("selective_transform: optimizer", optimizer)
    return partition({False: optimizer, True: set_to_zero()}, freeze_mask)
