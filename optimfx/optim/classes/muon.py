"""Muon as torch's class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimfx.optim.adapter.settings import Settings
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.muon import muon


class Muon(Optimizer, torch.optim.Muon):
    """Muon: orthogonalized momentum, for matrices only.

    Arguments: see :func:`optimfx.muon`.
    """

    factory = staticmethod(muon)
    counts = False
    complex_error = "Muon does not support complex parameters"

    def _check(self, settings: Settings, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        if any(p.ndim != 2 for p in params):
            raise ValueError("Param gradient must be a 2D matrix")
        super()._check(settings, params, grads)
