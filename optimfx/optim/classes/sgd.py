"""Gradient descent and its relatives as torch's classes."""

from __future__ import annotations

import torch
from torch import Tensor

from optimfx.optim.adapter.settings import Group
from optimfx.optim.classes.fusible import Fusible
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.asgd import asgd
from optimfx.rules.rprop import rprop
from optimfx.rules.sgd import sgd


class SGD(Optimizer, torch.optim.SGD):
    """SGD, optionally with momentum or Nesterov momentum.

    Arguments: see :func:`optimfx.sgd`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(sgd)
    counts = False

    def _prepare_grads(self, group: Group, grads: list[Tensor]) -> list[Tensor]:
        """Make sparse gradients dense where there is momentum: as torch's sparse buffer does, it moves earlier rows."""
        if not group["momentum"] or group["weight_decay"]:
            return grads
        return [grad.to_dense() if grad.is_sparse else grad for grad in grads]


class ASGD(Fusible, torch.optim.ASGD):
    """Averaged gradient descent: beside the parameters, their average.

    Arguments: see :func:`optimfx.asgd`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(asgd)


class Rprop(Fusible, torch.optim.Rprop):
    """Rprop: a step size for each element, which grows while the gradient keeps its sign. For full-batch training.

    Arguments: see :func:`optimfx.rprop`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(rprop)
