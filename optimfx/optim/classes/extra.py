"""Classes of the algorithms that torch does not have: the arguments are those of the pure ones."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from optimfx.optim.adapter import group_step
from optimfx.optim.adapter.validation import check_flags, check_no_schedule
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.adabelief import adabelief
from optimfx.rules.adam_mini import adam_mini
from optimfx.rules.adamuon import adamuon
from optimfx.rules.adan import adan
from optimfx.rules.ademamix import ademamix
from optimfx.rules.adopt import adopt
from optimfx.rules.dion import dion
from optimfx.rules.fromage import fromage
from optimfx.rules.kron import kron
from optimfx.rules.lamb import lamb
from optimfx.rules.lars import lars
from optimfx.rules.lion import lion
from optimfx.rules.normuon import normuon
from optimfx.rules.novograd import novograd
from optimfx.rules.scion import scion
from optimfx.rules.shampoo import shampoo
from optimfx.rules.signsgd import signsgd
from optimfx.rules.soap import soap
from optimfx.rules.stable_adamw import stable_adamw
from optimfx.rules.yogi import yogi

FLAGS = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""Flags that a class takes besides its algorithm's arguments, as torch's do; ``fused`` only for elementwise rules."""


class FromFactory(Optimizer):
    """A class whose signature and checks are those of its factory."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        pure = [p for name, p in inspect.signature(cls.factory).parameters.items() if name != "state_dtype"]
        flags = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=d) for name, d in FLAGS.items()]
        if not cls.factory().update.rule.elementwise:  # type: ignore[attr-defined]
            flags = [flag for flag in flags if flag.name != "fused"]
        cls.__signature__ = inspect.Signature([first, *pure, *flags])  # type: ignore[attr-defined]
        super().__init_subclass__(**kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        defaults = dict(bound.arguments)
        params = defaults.pop("params")
        pure = {name: value for name, value in defaults.items() if name not in FLAGS}
        if isinstance(defaults["lr"], Tensor):
            pure["lr"] = defaults["lr"].squeeze()  # of one element, as torch's classes take it
        check_no_schedule(**{name: value for name, value in pure.items() if self.algorithm.is_numeric(name)})
        hyper = self.factory(**pure).update.hyper  # type: ignore[attr-defined]
        # A group keeps numbers under their names, and not what stands for them.
        defaults.update({name: hyper[name] for name, value in pure.items() if isinstance(value, str) and name in hyper})
        check_flags(defaults)
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled or loaded state; counts that are numbers, as other libraries write them, become tensors.

        Raises:
            KeyError: a parameter's state is another algorithm's.
        """
        super().__setstate__(state)
        for group in self.param_groups:
            for p in filter(self.state.get, group["params"]):
                step = self.state[p]["step"]
                if not isinstance(step, Tensor):
                    on_device = bool(group["capturable"] or group.get("fused"))
                    self.state[p]["step"] = group_step.scalar(float(step), p, on_device=on_device)


class SignSGD(FromFactory):
    """Gradient descent that moves every element by the learning rate.

    Arguments: see :func:`optimfx.signsgd`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(signsgd)


class LARS(FromFactory):
    """LARS: gradient descent by a fraction of each parameter's size.

    Arguments: see :func:`optimfx.lars`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(lars)


class LAMB(FromFactory):
    """LAMB: Adam's direction, with a step in proportion to each parameter's size.

    Arguments: see :func:`optimfx.lamb`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(lamb)


class NorMuon(FromFactory):
    """NorMuon: Muon with rows scaled by their second moment. For matrices only.

    Arguments: see :func:`optimfx.normuon`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(normuon)


class AdaMuon(FromFactory):
    """AdaMuon: Muon of the momentum's sign, with elements scaled by their second moment. For matrices only.

    Arguments: see :func:`optimfx.adamuon`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adamuon)


class Dion(FromFactory):
    """Dion: orthonormal steps of low rank. For matrices only.

    Arguments: see :func:`optimfx.dion`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(dion)


class Scion(FromFactory):
    """Scion: steps to the least point of a ball of matrices. For matrices only.

    Arguments: see :func:`optimfx.scion`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(scion)


class SOAP(FromFactory):
    """SOAP: Adam in the eigenvectors of Shampoo's preconditioner. For matrices only.

    Arguments: see :func:`optimfx.soap`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(soap)


class Shampoo(FromFactory):
    """Shampoo: momentum between inverse roots of the gradient's second moments. For matrices only.

    Arguments: see :func:`optimfx.shampoo`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(shampoo)


class Kron(FromFactory):
    """PSGD with a Kronecker-factored preconditioner, for matrices only.

    Arguments: see :func:`optimfx.kron`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(kron)


class NovoGrad(FromFactory):
    """NovoGrad: momentum of gradients that are scaled by the average of their norm.

    Arguments: see :func:`optimfx.novograd`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(novograd)


class Lion(FromFactory):
    """Lion: the sign of a momentum that looks ahead.

    Arguments: see :func:`optimfx.lion`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(lion)


class AdaBelief(FromFactory):
    """AdaBelief: Adam that divides by how far gradients stray from their average.

    Arguments: see :func:`optimfx.adabelief`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adabelief)


class Yogi(FromFactory):
    """Yogi: Adam whose second moment moves by the size of the squared gradient.

    Arguments: see :func:`optimfx.yogi`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(yogi)


class Adan(FromFactory):
    """Adan: Nesterov's look-ahead from the gradient's change.

    Arguments: see :func:`optimfx.adan`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adan)


class AdEMAMix(FromFactory):
    """AdEMAMix: Adam with a second, slow average of the gradient.

    Arguments: see :func:`optimfx.ademamix`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(ademamix)


class ADOPT(FromFactory):
    """ADOPT: Adam that scales each gradient by the second moment before it.

    Arguments: see :func:`optimfx.adopt`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adopt)


class StableAdamW(FromFactory):
    """StableAdamW: AdamW with shorter steps where a gradient is larger than its second moment expects.

    Arguments: see :func:`optimfx.stable_adamw`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(stable_adamw)


class AdamMini(FromFactory):
    """Adam-mini: AdamW with one second moment for each row.

    Arguments: see :func:`optimfx.adam_mini`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adam_mini)


class Fromage(FromFactory):
    """Fromage: steps of a size relative to the parameter.

    Arguments: see :func:`optimfx.fromage`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(fromage)
