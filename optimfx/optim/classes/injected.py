"""Classes of algorithms that need the loss, or a sum over all parameters: any factory, with its numbers injected."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from optimfx import ops
from optimfx.combinators.inject import inject_hyperparams
from optimfx.core import GradientTransformation
from optimfx.optim.adapter.validation import check_no_schedule
from optimfx.optim.transform_optimizer import TransformOptimizer
from optimfx.rules.dadapt_adamw import dadapt_adamw
from optimfx.rules.momo import momo
from optimfx.rules.momo_adam import momo_adam
from optimfx.rules.prodigy import prodigy
from optimfx.transforms.cocob import cocob
from optimfx.transforms.distance import dog, dowg
from optimfx.transforms.madgrad import madgrad
from optimfx.transforms.polyak import polyak_sgd
from optimfx.transforms.scale_by_sm3 import sm3


class Injected(TransformOptimizer):
    """A class whose signature and checks are those of its factory, and whose groups have the factory's numbers.

    Each group is a tree of its own: sums over all parameters, and what is estimated from them, are those of the group.

    Attributes:
        make: the factory.
    """

    make: ClassVar[Callable[..., GradientTransformation]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        last = inspect.Parameter("fused", inspect.Parameter.KEYWORD_ONLY, default=None)
        pure = inspect.signature(cls.make).parameters.values()
        cls.__signature__ = inspect.Signature([first, *pure, last])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        params, fused = arguments.pop("params"), arguments.pop("fused")
        check_no_schedule(**arguments)
        # A term that is switched off by the number 0 is not injected, but a group may switch it on.
        arguments = {name: _tensor(x) if ops.is_zero(x) else x for name, x in arguments.items()}
        super().__init__(params, inject_hyperparams(self.make)(**arguments), fused=fused)


def _tensor(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64, device="cpu")


class Prodigy(Injected):
    """Prodigy: Adam whose learning rate is estimated from how far the parameters have come.

    Arguments: see :func:`optimfx.prodigy`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(prodigy)


class DAdaptAdamW(Injected):
    """D-Adaptation of AdamW: its learning rate is estimated from how far the parameters have come.

    Arguments: see :func:`optimfx.dadapt_adamw`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(dadapt_adamw)


class DoG(Injected):
    """DoG: gradient descent with distance over gradients for a learning rate.

    Arguments: see :func:`optimfx.dog`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(dog)


class DoWG(Injected):
    """DoWG: gradient descent with distance over weighted gradients for a learning rate.

    Arguments: see :func:`optimfx.dowg`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(dowg)


class MoMo(Injected):
    """MoMo: momentum whose learning rate is adapted to the loss, which ``step(closure)`` returns.

    Arguments: see :func:`optimfx.momo`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(momo)


class MoMoAdam(Injected):
    """MoMo-Adam: Adam whose learning rate is adapted to the loss, which ``step(closure)`` returns.

    Arguments: see :func:`optimfx.momo_adam`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(momo_adam)


class PolyakSGD(Injected):
    """Gradient descent with Polyak's step size, from the loss that ``step(closure)`` returns.

    Arguments: see :func:`optimfx.polyak_sgd`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(polyak_sgd)


class COCOB(Injected):
    """COCOB: bets on the gradient's direction in place of a learning rate.

    Arguments: see :func:`optimfx.cocob`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(cocob)


class MADGRAD(Injected):
    """MADGRAD: dual averaging with momentum and adaptive steps.

    Arguments: see :func:`optimfx.madgrad`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(madgrad)


class SM3(Injected):
    """SM3: Adagrad in the memory of a tensor's dimensions.

    Arguments: see :func:`optimfx.sm3`; ``fused``: see :class:`~optimfx.optim.TransformOptimizer`.
    """

    make = staticmethod(sm3)
