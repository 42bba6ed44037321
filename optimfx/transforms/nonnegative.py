"""Parameters that stay at or above zero."""

from __future__ import annotations

from optimfx import ops
from optimfx.core import Array, GradientTransformation, Rule
from optimfx.execution import transformation
from optimfx.transforms.set_to_zero import NoScalars, no_scalars


def leaf(base: Array, param: Array, update: Array, s: NoScalars) -> tuple[Array]:
    return (ops.add(base, ops.where(param + update < 0, -param, update)),)


NONNEGATIVE = Rule(leaf, no_scalars, reads_param=lambda s: True)


def keep_params_nonnegative() -> GradientTransformation:
    r"""Change updates that would make a parameter negative, so that it becomes 0: the last link of a chain.

    .. math::
        u \to \max(u, -\theta)

    Of a complex number, each part is kept.

    Returns:
        A transformation without state.

    Raises:
        ValueError: at ``update``, no ``params``.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.chain(fx.sgd(lr=1.0), fx.keep_params_nonnegative()), {"w": torch.tensor([1.0, 1.0])}
    >>> fx.step(tx, {"w": torch.tensor([0.5, 3.0])}, tx.init(params), params)[0]
    {'w': tensor([0.5000, 0.0000])}
    """
    return transformation("keep_params_nonnegative", NONNEGATIVE)
