"""The family of Adam as torch's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.optim.adapter.settings import Settings
from optimfx.optim.classes.fusible import Fusible
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.adam import adam
from optimfx.rules.adamax import adamax
from optimfx.rules.nadam import nadam
from optimfx.rules.radam import radam
from optimfx.rules.sparse_adam import sparse_adam


class Adam(Optimizer, torch.optim.Adam):
    """Adam: steps scaled by running averages of the gradient and of its square.

    Arguments: see :func:`optimfx.adam`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adam)
    sparse_error = "Adam does not support sparse gradients, please consider SparseAdam instead"


class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay.

    Arguments: see :func:`optimfx.adamw`. Flags: see :class:`~optimfx.optim.Optimizer`.

    >>> import torch, optimfx as fx
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = fx.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    """


class Adamax(Fusible, torch.optim.Adamax):
    """Adamax: Adam with the largest recent gradient in place of the second moment.

    Arguments: see :func:`optimfx.adamax`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adamax)


class NAdam(Fusible, torch.optim.NAdam):
    """NAdam: Adam with Nesterov momentum.

    Arguments: see :func:`optimfx.nadam`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(nadam)


class RAdam(Fusible, torch.optim.RAdam):
    """RAdam: Adam with a rectified variance, which warms up by itself.

    Arguments: see :func:`optimfx.radam`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(radam)


class SparseAdam(Optimizer, torch.optim.SparseAdam):
    """Adam for sparse gradients of dense, real parameters: only the elements that a gradient has are updated.

    Arguments: see :func:`optimfx.sparse_adam`.
    """

    factory = staticmethod(sparse_adam)
    numeric_step = True

    def _check(self, settings: Settings, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        if not all(grad.is_sparse for grad in grads):
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")

    def _begin(self, settings: Settings, param: Tensor) -> dict[str, Any]:
        return {**super()._begin(settings, param), "step": 0}

    def _advance_counts(self, counts: Any, step: Any, states: list[dict[str, Any]], scaling: Any) -> None:
        for state in states:
            state["step"] += 1
