"""AdamW: Adam with decoupled decay. Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019."""

from __future__ import annotations

from optimfx.core import Betas, DType, GradientTransformation, NonNegative, factory
from optimfx.rules.adam import adam


@factory
def adamw(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
    eps_root: NonNegative = 0.0,
) -> GradientTransformation:
    r""":func:`adam` with ``decoupled_weight_decay=True`` and torch's default decay of 0.01.

    .. math::
        \theta_t = (1 - \gamma \lambda) \, \theta_{t-1} - \gamma \,
            \frac{\hat m_t}{\sqrt{\hat v_t + \epsilon_{\text{root}}} + \epsilon}

    The moments are those of :func:`adam`, bias-corrected.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root of the second moment, in gradient units.
        weight_decay: :math:`\lambda \ge 0`; each step subtracts :math:`\gamma \lambda \theta` from the parameter.
        amsgrad: divide by the largest second moment so far.
        maximize: maximize the objective; weight decay still shrinks the parameters.

    Returns:
        A transformation with state :class:`~optimfx.rules.adam.AdamState`.

    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.

    Differs from Optax, whose default decay is 1e-4. :func:`optimfx.step` shrinks the parameter, then subtracts, and so
    rounds as torch does; ``update`` returns both changes as one increment.

    >>> import torch, optimfx as fx
    >>> tx = fx.adamw(lr=0.1, weight_decay=0.5)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> params, state = fx.step(tx, {"w": torch.tensor([0.5, 3.0])}, tx.init(params), params)
    >>> params["w"]
    tensor([ 0.8500, -2.0000])
    """
    return adam(
        lr,
        betas,
        eps,
        weight_decay,
        amsgrad,
        maximize=maximize,
        state_dtype=state_dtype,
        decoupled_weight_decay=True,
        eps_root=eps_root,
    )
