"""Algorithms that scale by past gradients as torch's classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from optimfx.optim.classes.fusible import Fusible
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.adadelta import adadelta
from optimfx.rules.adafactor import adafactor
from optimfx.rules.adagrad import adagrad
from optimfx.rules.rmsprop import rmsprop


class Adadelta(Fusible, torch.optim.Adadelta):
    """Adadelta: steps scaled by running averages of past gradients and steps.

    Arguments: see :func:`optimfx.adadelta`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adadelta)


class Adafactor(Optimizer, torch.optim.Adafactor):
    """Adafactor: a second moment factored into rows and columns.

    Arguments: see :func:`optimfx.adafactor`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adafactor)
    complex_error = "Adafactor does not support complex parameters"


class Adagrad(Optimizer, torch.optim.Adagrad):
    """Adagrad: steps scaled by all squared gradients so far. Its state is there from the start.

    Arguments: see :func:`optimfx.adagrad`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adagrad)
    old_checkpoint_defaults: ClassVar[dict[str, Any]] = {"initial_accumulator_value": 0}
    sparse_error = "weight_decay option is not compatible with sparse gradients"


class RMSprop(Fusible, torch.optim.RMSprop):
    """RMSprop: steps scaled by a running average of the squared gradient.

    Arguments: see :func:`optimfx.rmsprop`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(rmsprop)
