"""Classes of the algorithms that torch does not have: the arguments are those of the pure ones."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from optimfx.optim.optimizer import Optimizer
from optimfx.rules.adabelief import adabelief
from optimfx.rules.adan import adan
from optimfx.rules.ademamix import ademamix
from optimfx.rules.adopt import adopt
from optimfx.rules.lamb import lamb
from optimfx.rules.lars import lars
from optimfx.rules.lion import lion
from optimfx.rules.novograd import novograd
from optimfx.rules.signsgd import signsgd
from optimfx.rules.yogi import yogi

FLAGS = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""What a class takes beside its algorithm's arguments, as torch's do; ``fused`` where each element is by itself."""


class Beyond(Optimizer):
    """Takes the arguments of the pure algorithm, and checks them as it does."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        pure = [p for name, p in inspect.signature(cls.factory).parameters.items() if name != "state_dtype"]
        flags = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=d) for name, d in FLAGS.items()]
        if not cls.factory().update.rule.elementwise:  # type: ignore[attr-defined]
            flags = [flag for flag in flags if flag.name != "fused"]
        cls.__signature__ = inspect.Signature([first, *pure, *flags])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        defaults = dict(bound.arguments)
        params = defaults.pop("params")
        pure = {name: value for name, value in defaults.items() if name not in FLAGS}
        if isinstance(defaults["lr"], Tensor):
            pure["lr"] = defaults["lr"].squeeze()  # of one element, as torch's classes take it
        self.factory(**pure)
        super().__init__(params, defaults)


class SignSGD(Beyond):
    """:func:`optimfx.signsgd` as a class."""

    factory = staticmethod(signsgd)


class LARS(Beyond):
    """:func:`optimfx.lars` as a class."""

    factory = staticmethod(lars)


class LAMB(Beyond):
    """:func:`optimfx.lamb` as a class."""

    factory = staticmethod(lamb)


class NovoGrad(Beyond):
    """:func:`optimfx.novograd` as a class."""

    factory = staticmethod(novograd)


class Lion(Beyond):
    """:func:`optimfx.lion` as a class."""

    factory = staticmethod(lion)


class AdaBelief(Beyond):
    """:func:`optimfx.adabelief` as a class."""

    factory = staticmethod(adabelief)


class Yogi(Beyond):
    """:func:`optimfx.yogi` as a class."""

    factory = staticmethod(yogi)


class Adan(Beyond):
    """:func:`optimfx.adan` as a class."""

    factory = staticmethod(adan)


class AdEMAMix(Beyond):
    """:func:`optimfx.ademamix` as a class."""

    factory = staticmethod(ademamix)


class ADOPT(Beyond):
    """:func:`optimfx.adopt` as a class."""

    factory = staticmethod(adopt)
