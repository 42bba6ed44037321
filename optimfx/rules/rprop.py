"""Rprop. Riedmiller and Braun, A Direct Adaptive Method for Faster Backpropagation Learning, 1993."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    DType,
    Etas,
    GradientTransformation,
    Hyper,
    NonNegative,
    PyTree,
    Rule,
    Scalar,
    StepSizes,
    factory,
)
from optimfx.execution import transformation


class RpropState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    prev: PyTree  # like the parameters: the last gradient, 0 where its sign had changed
    step_size: PyTree  # like the parameters


class Scalars(NamedTuple):
    etaminus: Scalar
    etaplus: Scalar
    step_size_min: Scalar
    step_size_max: Scalar


def init(param: Array, lr: Hyper) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.full_like(param, ops.initial(lr))


def scalars(step: Scalar, etas: tuple[Scalar, Scalar], step_sizes: tuple[Scalar, Scalar]) -> Scalars:
    return Scalars(*etas, *step_sizes)


def leaf(
    base: Array, param: Array, grad: Array, prev: Array, step_size: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    agreement = grad * prev
    kept = ops.where(agreement < 0, step_size * s.etaminus, step_size)
    step_size = ops.where(agreement > 0, step_size * s.etaplus, kept)
    step_size = ops.clamp(step_size, s.step_size_min, s.step_size_max)
    grad = ops.where(agreement < 0, 0, grad)
    return ops.addcmul(base, ops.sign(grad), step_size, value=-1), grad, step_size


RPROP = Rule(leaf, scalars, init, RpropState)


@factory
def rprop(
    lr: NonNegative = 1e-2,
    etas: Etas = (0.5, 1.2),
    step_sizes: StepSizes = (1e-6, 50.0),
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Rprop: each element has its own step size, which grows while the gradient keeps its sign. For full batches.

    .. math::
        \eta_t &= \operatorname{clip}\left(\eta_{t-1} \cdot \begin{cases}
            \eta^+ & g_t g_{t-1} > 0 \\
            \eta^- & g_t g_{t-1} < 0 \\
            1 & \text{else} \end{cases},\; \eta_{\min}, \eta_{\max}\right) \\
        \theta_t &= \theta_{t-1} - \eta_t \operatorname{sign}(g_t), \qquad
            g_t \leftarrow 0 \;\text{where}\; g_t g_{t-1} < 0

    Args:
        lr: the step size :math:`\eta_0 \ge 0` before the first step, in parameter units; it plays no part later.
        etas: factors :math:`(\eta^-, \eta^+)` with :math:`0 \le \eta^- < 1 \le \eta^+`.
        step_sizes: bounds :math:`(\eta_{\min}, \eta_{\max})` of the step size, each at least 0, in parameter units.

    Returns:
        A transformation with state :class:`RpropState`: ``step``, ``prev`` and ``step_size`` (like the parameters).

    References:
        Riedmiller and Braun, A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm, 1993.

    Differs from Optax 0.2, which gives each step one call late.

    >>> import torch, optimfx as fx
    >>> tx = fx.rprop(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> state = tx.init(params)
    >>> for grads in ([4.0, -40.0], [1.0, 1.0]):
    ...     updates, state = tx.update({"w": torch.tensor(grads)}, state)
    >>> updates["w"]
    tensor([-0.1200, -0.0000])
    """
    return transformation(
        "rprop", RPROP, maximize=maximize, state_dtype=state_dtype, lr=lr, etas=etas, step_sizes=step_sizes
    )
