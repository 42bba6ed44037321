"""Directions that agree with the gradient: cautious updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from optimfx import ops
from optimfx.core import (
    Array,
    Description,
    ExecutionRow,
    GradientTransformation,
    Locality,
    Params,
    PyTree,
    Rule,
    Scalar,
    State,
    StructuredUpdate,
    Updates,
    check_transformation,
    tree,
)
from optimfx.core.transformation import EmptyState
from optimfx.execution import add_updates, check, explain, run, transformation

LEAST = 1e-3
"""The least share of the elements by which the others are divided."""


class Scalars(NamedTuple):
    pass


def scalars(step: Scalar | None) -> Scalars:
    return Scalars()


def leaf(base: Array, grad: Array, direction: Array, s: Scalars) -> tuple[Array]:
    agrees = ops.where(direction * grad > 0, 1.0, direction * 0)  # NaN stays NaN
    share = ops.maximum(ops.rms(agrees) ** 2, LEAST)
    return (ops.add(base, direction * agrees, alpha=1 / share),)


AGREEMENT = Rule(leaf, scalars, reads_param=lambda s: True, locality=Locality.NORM)


@dataclass(frozen=True, eq=False)
class Cautious(StructuredUpdate):
    """The ``update`` of :func:`cautious`."""

    inner: GradientTransformation
    mask: GradientTransformation

    def init(self, params: Params) -> State:
        return self.inner.init(params)

    def run(
        self,
        updates: Updates,
        state: State,
        params: Params | None,
        *,
        stepping: bool,
        inplace: bool,
        spare_updates: bool = False,
        **extra: Any,
    ) -> tuple[PyTree, State]:
        how = {"stepping": False, "inplace": inplace}
        direction, after = run(self.inner, updates, state, params, **how, spare_updates=True, **extra)
        # The rule reads the gradients where others read the parameters.
        results, _ = run(self.mask, direction, EmptyState(), updates, stepping=False, inplace=False)
        if stepping:
            leaves, spec = tree.flatten(params)
            results = tree.unflatten(spec, add_updates(leaves, spec.flatten_up_to(results), spec, inplace=inplace))
        return results, after

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        check(self.inner, updates, state, params)

    def explain(self, params: Params) -> list[ExecutionRow]:
        return [*explain(self.inner, params), *explain(self.mask, params)]

    def description(self) -> Description:
        return Description("cautious", {}, [("", self.inner)])


def cautious(inner: GradientTransformation) -> GradientTransformation:
    r"""Keep of a direction what agrees in sign with the gradient, and make that larger by as much as is lost.

    .. math::
        m = [u g > 0], \qquad u \to \frac{u \, m}{\max(\operatorname{mean}(m), 10^{-3})}

    with a mean over the leaf.

    Args:
        inner: makes a direction of gradients, which is subtracted later: ``scale_by_adam()``, ``momentum(0.9)``.

    Returns:
        A transformation with the state of ``inner``.

    Raises:
        TypeError: ``inner`` is not a transformation.

    References:
        Liang et al., Cautious Optimizers: Improving Training with One Line of Code, 2024.

    Neither torch nor Optax has it.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.cautious(fx.momentum(0.5)), fx.scale_by_lr(0.1))
    >>> params = {"w": torch.zeros(2)}
    >>> _, state = tx.update({"w": torch.tensor([4.0, 4.0])}, tx.init(params))
    >>> tx.update({"w": torch.tensor([-1.0, 1.0])}, state)[0]
    {'w': tensor([-0.0000, -0.6000])}
    """
    check_transformation("cautious: inner", inner)
    return Cautious(inner, transformation("cautious", AGREEMENT)).as_transformation()
