"""SignSGD: SGD by the sign alone. Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, 2018."""

from __future__ import annotations

from optimfx.core import DType, GradientTransformation, NonNegative, factory
from optimfx.execution import transformation
from optimfx.rules.sgd import SGD


@factory
def signsgd(
    lr: NonNegative = 1e-3, momentum: NonNegative = 0.0, *, maximize: bool = False, state_dtype: DType | None = None
) -> GradientTransformation:
    r""":func:`~optimfx.sgd` that moves every element by the learning rate, whatever the size of its gradient.

    .. math::
        b_t = \mu b_{t-1} + g_t, \qquad \theta_t = \theta_{t-1} - \gamma \operatorname{sign}(b_t)

    Args:
        lr: learning rate :math:`\gamma \ge 0`, in parameter units. Of a complex number, each part moves by it.
        momentum: decay :math:`\mu \ge 0` of the buffer; 0 keeps none. With it, the algorithm is called Signum.

    Returns:
        A transformation with state :class:`~optimfx.rules.sgd.SGDState`: ``step`` and ``momentum_buffer`` (like the
        parameters, ``()`` without momentum).

    References:
        Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, 2018.

    As Optax's ``sign_sgd`` and, with momentum, ``signum``, except for a default ``lr``. torch has neither.

    >>> import torch, optimfx as fx
    >>> tx = fx.signsgd(lr=0.1)
    >>> tx.update({"w": torch.tensor([0.5, -3.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([-0.1000,  0.1000])}
    """
    off = {"dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    return transformation(
        "signsgd", SGD, maximize=maximize, state_dtype=state_dtype, lr=lr, momentum=momentum, sign=True, **off
    )
