"""Noise on gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from optimfx.combinators.chain import chain
from optimfx.core import (
    NON_NEGATIVE,
    Description,
    GradientTransformation,
    NonNegative,
    Params,
    State,
    Updates,
    check_count,
    factory,
    state_class,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.core.transformation import Described
from optimfx.core.types import Array, Hyper, Value
from optimfx.execution import check_state, count_from_zero
from optimfx.ops.random import normal_like
from optimfx.rules.sgd import sgd


@state_class
class NoiseState(NamedTuple):
    """The state of noise: a function of the step."""

    step: Tensor  # shape=(): updates taken


@dataclass(frozen=True, eq=False)
class Noise(Described):
    """The ``update`` of a link that adds normal noise; subclasses say to what, and how much."""

    name: ClassVar[str]
    seed: int

    def init(self, params: Params) -> NoiseState:
        return NoiseState(count_from_zero(params))

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, NoiseState]:
        check_state(self.name, NoiseState, state)
        leaves, spec = tree.flatten(updates)
        clean, deviation = self.measure(leaves, as_step_number(state.step))
        noisy = [
            None if x is None else x + normal_like(x, self.seed, state.step, i) * deviation for i, x in enumerate(clean)
        ]
        return tree.unflatten(spec, noisy), NoiseState(state.step + 1)

    def measure(self, leaves: list[Array], before: Value) -> tuple[list[Array], Value]:
        """Return what noise is added to, and the deviation of the noise, after so many steps."""
        raise NotImplementedError

    def description(self) -> Description:
        return Description(self.name, dict(vars(self)))


@dataclass(frozen=True, eq=False)
class AddNoise(Noise):
    """The ``update`` of :func:`add_noise`."""

    name = "add_noise"
    eta: Hyper
    gamma: Hyper

    def measure(self, leaves: list[Array], before: Value) -> tuple[list[Array], Value]:
        return leaves, (resolve(self.eta, before) / (before + 1) ** resolve(self.gamma, before)) ** 0.5


@factory
def add_noise(eta: NonNegative, gamma: NonNegative, seed: int = 0) -> GradientTransformation:
    r"""Add normal noise to gradients, less at every step.

    .. math::
        g_t \to g_t + \mathcal{N}(0, \eta / t^\gamma)

    The noise is a function of the seed, the step, and the place of an element: pure, and the same on every device.

    Args:
        eta: :math:`\eta \ge 0`, the variance at the first step, in squared gradient units.
        gamma: :math:`\gamma \ge 0`, how it decays.
        seed: an integer in [0, 2**24).

    Returns:
        A transformation with state :class:`NoiseState`: ``step`` (0-d).

    References:
        Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, 2015.

    As Optax's, with other random numbers.

    >>> import torch, optimfx as fx
    >>> tx, grads = fx.add_noise(eta=0.01, gamma=0.55, seed=1), {"w": torch.zeros(10_000)}
    >>> updates, state = tx.update(grads, tx.init(grads))
    >>> round(updates["w"].std().item(), 2)
    0.1
    """
    check_count(NON_NEGATIVE, seed=seed)
    update = AddNoise(seed, eta, gamma)
    return GradientTransformation(update.init, update)


@factory
def noisy_sgd(
    lr: NonNegative = 1e-3, eta: NonNegative = 0.01, gamma: NonNegative = 0.55, seed: int = 0
) -> GradientTransformation:
    r"""SGD with noise that decays: :func:`~optimfx.add_noise`, then :func:`~optimfx.sgd`.

    Args:
        lr: learning rate :math:`\ge 0`.
        eta: variance of the noise at the first step :math:`\ge 0`, in squared gradient units.
        gamma: :math:`\ge 0`, how it decays.
        seed: an integer in [0, 2**24).

    Returns:
        A transformation with the states of its two links.

    References:
        Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, 2015.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.noisy_sgd(lr=0.1, eta=0.0), {"w": torch.ones(1)}
    >>> fx.step(tx, {"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([0.9000])}
    """
    return chain(add_noise(eta, gamma, seed), sgd(lr=lr))
