"""Last links that keep training in a narrow dtype accurate: they add the updates to the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    FLOAT32,
    Array,
    DType,
    GradientTransformation,
    Interval,
    Locality,
    PyTree,
    Rule,
    Scalar,
    StepState,
    check_count,
)
from optimfx.execution import transformation

SEEDS = Interval(0, 2**24)
"""Integers that every compute dtype holds exactly."""


class KahanState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    compensation: PyTree  # like the parameters: the accumulated rounding error


class MasterState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    master: PyTree  # the parameters, in a wider dtype


class Stored(NamedTuple):
    param_dtype: Any  # that of the parameter, which the executor fills in


class Drawn(NamedTuple):
    param_dtype: Any  # that of the parameter, which the executor fills in
    seed: Scalar
    step: Scalar


def stored(step: Scalar) -> Stored:
    return Stored(None)


def drawn(step: Scalar, seed: Scalar) -> Drawn:
    return Drawn(None, seed, step)


def no_compensation(param: Array) -> tuple[Array]:
    return (ops.zeros_like(param),)


def copied(param: Array) -> tuple[Array]:
    return (param.clone(),)


def kahan_leaf(base: Array, param: Array, update: Array, compensation: Array, s: Stored) -> tuple[Array, Array]:
    wanted = update + compensation
    moved = ops.rounded(param + wanted, s.param_dtype)
    change = moved - param
    return (change if base is None else moved), wanted - change


def master_leaf(base: Array, param: Array, update: Array, master: Array, s: Stored) -> tuple[Array, Array]:
    master = master + update
    return (ops.rounded(master, s.param_dtype) - param if base is None else master), master


def stochastic_leaf(base: Array, param: Array, update: Array, s: Drawn) -> tuple[Array]:
    moved = ops.rounded_stochastically(param + update, s.param_dtype, s.seed, s.step)
    return (moved - param if base is None else moved,)


KAHAN = Rule(kahan_leaf, stored, no_compensation, KahanState, lambda s: True, needs_param_dtype=True)
MASTER = Rule(master_leaf, stored, copied, MasterState, lambda s: True, needs_param_dtype=True)
STOCHASTIC = Rule(
    stochastic_leaf,
    drawn,
    state=StepState,
    reads_param=lambda s: True,
    locality=Locality.POSITION,
    needs_param_dtype=True,
)


def kahan(*, state_dtype: DType | None = None) -> GradientTransformation:
    r"""Add the updates to the parameters, and what rounding kept from them to the next updates (Kahan summation).

    .. math::
        \theta_t &= \mathrm{round}(\theta_{t-1} + u_t + c_{t-1}), \qquad
        c_t = (u_t + c_{t-1}) - (\theta_t - \theta_{t-1})

    With bfloat16 parameters, an update below a 512th of its parameter is lost; here, such updates add up until they
    count. It must see the final updates, and so comes last in a chain.

    Args:
        state_dtype: dtype of the compensation; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`KahanState`: ``step`` and ``compensation`` (like the
        parameters, at first 0).

    Raises:
        TypeError: ``state_dtype`` is not a floating-point dtype.
        ValueError: at ``update``, no ``params``.

    References:
        Kahan, Further remarks on reducing truncation errors, 1965. Zamirai et al., Revisiting BFloat16 Training, 2020.

    :func:`optimfx.step` gives the parameters as they were rounded; a change handed to
    :func:`optimfx.apply_updates` is rounded once more where it is more than half the parameter.

    >>> import torch, optimfx as fx
    >>> params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    >>> plain, compensated = fx.sgd(lr=1e-3), fx.chain(fx.sgd(lr=1e-3), fx.kahan())
    >>> for tx in (plain, compensated):
    ...     trained, state = params, tx.init(params)
    ...     for _ in range(100):
    ...         trained, state = fx.step(tx, {"w": torch.ones(1, dtype=torch.bfloat16)}, state, trained)
    ...     trained["w"].item()
    1.0
    0.8984375
    """
    return transformation("kahan", KAHAN, state_dtype=state_dtype)


def master_params(*, state_dtype: DType | None = FLOAT32) -> GradientTransformation:
    r"""Add the updates to a copy of the parameters in a wider dtype, of which the parameters are the rounded image.

    .. math:: m_t = m_{t-1} + u_t, \qquad \theta_t = \mathrm{round}(m_t), \qquad m_0 = \theta_0

    It must see the final updates, and so comes last in a chain. The links before it read the parameters,
    not the copy: weight decay is off by the parameters' rounding.

    Args:
        state_dtype: dtype of the copy; ``None`` for the parameters' own.

    Returns:
        A transformation with state :class:`MasterState`: ``step`` and ``master`` (like the parameters).

    Raises:
        TypeError: ``state_dtype`` is not a floating-point dtype.
        ValueError: at ``update``, no ``params``.

    References:
        Micikevicius et al., Mixed Precision Training, 2018.

    :func:`optimfx.step` gives the image exactly, and brings parameters that were changed otherwise back to it.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=1e-3), fx.master_params())
    >>> params = {"w": torch.ones(1, dtype=torch.bfloat16)}
    >>> state = tx.init(params)
    >>> for _ in range(100):
    ...     params, state = fx.step(tx, {"w": torch.ones(1, dtype=torch.bfloat16)}, state, params)
    >>> params["w"], state[1].master["w"]
    (tensor([0.8984], dtype=torch.bfloat16), tensor([0.9000]))
    """
    return transformation("master_params", MASTER, state_dtype=state_dtype)


def stochastic_rounding(seed: int = 0) -> GradientTransformation:
    r"""Add the updates to bfloat16 parameters, and round up or down at random, so that the sum is right on average.

    .. math:: \theta_t = \lfloor \theta_{t-1} + u_t \rceil, \qquad \mathrm{E}\, \theta_t = \theta_{t-1} + u_t

    With rounding to the nearest, an update below a 512th of its parameter is lost. Here it moves the parameter by one
    place once in a while, with no more memory than a step count. Leaves of other dtypes are rounded to the nearest. It
    must see the final updates, and so comes last in a chain.

    Args:
        seed: of the random numbers, in [0, 2**24). They are a hash of the seed, the step, the element's place in its
            tensor and its value: steps can be repeated, and two executors that compute the same sum round it alike.

    Returns:
        A transformation with state :class:`~optimfx.StepState`.

    Raises:
        ValueError: ``seed`` is out of range; at ``update``, no ``params``.

    References:
        Gupta et al., Deep Learning with Limited Numerical Precision, 2015. Zamirai et al., Revisiting BFloat16
        Training, 2020.

    :func:`optimfx.step` gives the parameters as they were rounded; a change handed to :func:`optimfx.apply_updates` is
    rounded once more where it is more than half the parameter.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=1e-3), fx.stochastic_rounding(seed=1))
    >>> params = {"w": torch.ones(10_000, dtype=torch.bfloat16)}
    >>> params, state = fx.step(tx, params, tx.init(params), params)
    >>> sorted(params["w"].unique().tolist()), round(params["w"].float().mean().item(), 3)
    ([0.99609375, 1.0], 0.999)
    """
    check_count(SEEDS, seed=seed)
    return transformation("stochastic_rounding", STOCHASTIC, seed=seed)
