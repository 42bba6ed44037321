"""Measurements of your own, kept in the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.core import (
    Decay,
    Description,
    DType,
    GradientTransformation,
    Params,
    PyTree,
    State,
    Updates,
    factory,
    state_class,
    tree,
)
from optimfx.core.stateless import stateless
from optimfx.core.transformation import Described
from optimfx.execution import check_state
from optimfx.transforms.momentum import ema

Measure = Callable[[Updates], PyTree]


@state_class
class SnapshotState(NamedTuple):
    """The state of a link that measures what passes."""

    measurement: dict[str, PyTree]  # by its one name, what was measured last
    measure_state: State


@dataclass(frozen=True, eq=False)
class Snapshot(Described):
    """The ``update`` of :func:`snapshot`."""

    measure_name: str
    measure: GradientTransformation

    def init(self, params: Params) -> SnapshotState:
        state = self.measure.init(params)
        measured, _ = self.measure.update(_zeros_like(params), state, params)
        return SnapshotState({self.measure_name: measured}, state)

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, SnapshotState]:
        check_state("snapshot", SnapshotState, state)
        measured, after = self.measure.update(updates, state.measure_state, params)
        # A link that steps in place writes over the updates, which may be what is measured.
        return updates, SnapshotState({self.measure_name: _map(lambda x: x.clone(), measured)}, after)

    def description(self) -> Description:
        return Description("snapshot", {"measure_name": self.measure_name}, [("", self.measure)])


@dataclass(frozen=True, eq=False)
class MeasureWithEma(Described):
    """The ``update`` of :func:`measure_with_ema`."""

    measure: Measure
    average: GradientTransformation

    def init(self, params: Params) -> State:
        return self.average.init(self.measure(_zeros_like(params)))

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[PyTree, State]:
        return self.average.update(self.measure(updates), state)

    def description(self) -> Description:
        return Description("measure_with_ema", {"measure": self.measure}, [("", self.average)])


def snapshot(measure_name: str, measure: Measure | GradientTransformation) -> GradientTransformation:
    """Hand the updates on, and keep a measurement of them in the state.

    Args:
        measure_name: the name of the measurement, under which :func:`~optimfx.tree_get` finds it.
        measure: a function of the updates that gives tensors, or a transformation that turns the updates into them, as
            :func:`measure_with_ema` makes.

    Returns:
        A transformation with state :class:`SnapshotState`: ``measurement``, a dict of one name, and ``measure_state``.
        At first, the measurement is that of zeros.

    Raises:
        TypeError: ``measure`` is neither.

    As Optax's ``snapshot``, and with several in a chain, its ``monitor``. What :func:`~optimfx.monitor` measures runs
    in one pass with the other links.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(0.5), fx.snapshot("norm", fx.global_norm), fx.clip_by_global_norm(1.0))
    >>> grads = {"w": torch.tensor([6.0, 8.0])}
    >>> updates, state = tx.update(grads, tx.init(grads))
    >>> fx.tree_get(state, "norm")
    tensor(5.)
    """
    if not (callable(measure) or isinstance(measure, GradientTransformation)):
        raise TypeError(f"measure must be a function of the updates or a transformation; got {measure!r:.200}.")
    update = Snapshot(measure_name, _as_transformation(measure))
    return GradientTransformation(update.init, update)


@factory
def measure_with_ema(
    measure: Measure, decay: Decay, debias: bool = True, *, state_dtype: DType | None = None
) -> GradientTransformation:
    r"""Average a measurement over the steps, for :func:`snapshot`.

    .. math:: m_t = \beta m_{t-1} + (1 - \beta) f(u_t), \qquad \hat m_t = m_t / (1 - \beta^t)

    Args:
        measure: a function of the updates that gives floating-point tensors.
        decay: :math:`\beta`, in [0, 1).
        debias: make up for the zeros that the average begins with.
        state_dtype: dtype of the average; ``None`` for the measurement's own.

    Returns:
        A transformation of updates into averages, with the state of :func:`~optimfx.ema`.

    Raises:
        ValueError, TypeError: ``decay`` is out of range or not a scalar.

    As Optax's, where ``accumulator_dtype`` is ``state_dtype``.

    >>> import torch, optimfx as fx
    >>> clipped = fx.measure_with_ema(lambda u: (fx.global_norm(u) > 1.0).float(), decay=0.5)
    >>> tx, grads = fx.snapshot("clipped", clipped), {"w": torch.tensor([6.0, 8.0])}
    >>> state = tx.init(grads)
    >>> for scale in (1.0, 0.1):
    ...     _, state = tx.update({"w": grads["w"] * scale}, state)
    ...     print(round(fx.tree_get(state, "clipped").item(), 3))
    1.0
    0.333
    """
    update = MeasureWithEma(measure, ema(decay, debias, state_dtype=state_dtype))
    return GradientTransformation(update.init, update)


def _as_transformation(measure: Measure | GradientTransformation) -> GradientTransformation:
    if isinstance(measure, GradientTransformation):
        return measure
    return stateless(lambda updates, params: measure(updates))


def _zeros_like(params: Params) -> Updates:
    return _map(torch.zeros_like, params)


def _map(function: Callable[[Tensor], Tensor], tensors: PyTree) -> PyTree:
    leaves, spec = tree.flatten(tensors)
    return tree.unflatten(spec, [function(x) if isinstance(x, Tensor) else x for x in leaves])
