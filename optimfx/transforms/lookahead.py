"""Parameters that run ahead, and are drawn back."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.combinators.chain import chain
from optimfx.core import (
    AT_LEAST_ONE,
    Array,
    DType,
    GradientTransformation,
    Hyper,
    PyTree,
    Rule,
    Scalar,
    check_count,
    check_hyper,
    check_transformation,
)
from optimfx.core.validation import Interval
from optimfx.execution import transformation


class LookaheadState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    slow: PyTree  # like the parameters: where they were drawn back to last


PART = Interval(0, 1, has_high=True)


class Scalars(NamedTuple):
    syncs: Any  # whether the parameters are drawn back at this step
    slow_step_size: Scalar


def init(param: Array) -> tuple[Array]:
    return (param.clone(),)


def scalars(step: Scalar, sync_period: int, slow_step_size: Scalar) -> Scalars:
    return Scalars(step % sync_period == 0, slow_step_size)


def leaf(base: Array, param: Array, update: Array, slow: Array, s: Scalars) -> tuple[Array, Array]:
    fast = param + update
    back = ops.lerp(slow, fast, s.slow_step_size)
    new = ops.where(s.syncs, back, fast)
    return (new - param if base is None else new), ops.where(s.syncs, back, slow)


LOOKAHEAD = Rule(leaf, scalars, init, LookaheadState, reads_param=lambda s: True)


def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: int = 5,
    slow_step_size: Hyper = 0.5,
    *,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Let an optimizer run ahead for some steps, then go a part of the way that it went.

    .. math::
        \phi \to \phi + \alpha (\theta - \phi), \qquad \theta \to \phi \qquad\text{every } k \text{ steps}

    The slow parameters :math:`\phi` are in the state; the parameters :math:`\theta` are the fast ones.

    Args:
        fast_optimizer: makes the updates.
        sync_period: :math:`k \ge 1`.
        slow_step_size: :math:`\alpha` in [0, 1]: 1 leaves the fast parameters as they are.
        state_dtype: dtype of the slow parameters; ``None`` for the parameters' own.

    Returns:
        A transformation with state ``(state of the fast optimizer, LookaheadState)``.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type; at ``update``, no ``params``.

    References:
        Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, 2019.

    Optax keeps both parameters in a pair that the user carries; here ``params`` stays one tree.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.lookahead(fx.sgd(1.0), sync_period=2), {"w": torch.tensor([0.0])}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     params, state = fx.step(tx, {"w": torch.tensor([-1.0])}, state, params)
    ...     print(params["w"])
    tensor([1.])
    tensor([1.])
    """
    check_transformation("fast_optimizer", fast_optimizer)
    check_count(AT_LEAST_ONE, sync_period=sync_period)
    check_hyper(PART, slow_step_size=slow_step_size)
    link = transformation(
        "lookahead", LOOKAHEAD, state_dtype=state_dtype, sync_period=sync_period, slow_step_size=slow_step_size
    )
    return chain(fast_optimizer, link)
