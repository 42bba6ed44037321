"""The family of Adam as torch's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optimfx.optim.adapter.settings import Settings
from optimfx.optim.adapter.validation import check, check_betas, check_lr, check_no_schedule, check_not_negative
from optimfx.optim.optimizer import Optimizer
from optimfx.rules.adam import adam
from optimfx.rules.adamax import adamax
from optimfx.rules.nadam import nadam
from optimfx.rules.radam import radam
from optimfx.rules.sparse_adam import sparse_adam


class Adam(Optimizer):
    """Adam: steps scaled by running averages of the gradient and of its square.

    Arguments: see :func:`optimfx.adam`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adam)
    sparse_error = "Adam does not support sparse gradients, please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and foreach and not capturable:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        check_lr(lr)
        check_not_negative(epsilon=eps)
        check_betas(betas)
        check_not_negative(weight_decay=weight_decay)
        _check_tensor_betas(betas, bool(foreach and not capturable))
        defaults = dict(
            lr=lr,
            betas=tuple(beta.squeeze() if isinstance(beta, Tensor) else beta for beta in betas),
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        super().__init__(params, defaults)


def _check_tensor_betas(betas: tuple[Any, Any], list_form: bool) -> None:
    """Both numbers or both tensors of one element, which the list form takes only when capturable."""
    if not any(all(isinstance(beta, kind) for beta in betas) for kind in (float, Tensor)):
        raise ValueError("betas must be either both floats or both Tensors")
    for i, beta in enumerate(betas):
        if isinstance(beta, Tensor):
            if list_form:
                raise ValueError(f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True")
            if beta.numel() != 1:
                raise ValueError(f"Tensor betas[{i}] must be 1-element")


class AdamW(Adam):
    """Adam with decoupled weight decay.

    Arguments: see :func:`optimfx.adamw`. Flags: see :class:`~optimfx.optim.Optimizer`.

    >>> import torch, optimfx as fx
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = fx.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As :class:`Adam`'s; checkpoints from before decoupling was an option of Adam do not name it."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


class Adamax(Optimizer):
    """Adamax: Adam with the largest recent gradient in place of the second moment.

    Arguments: see :func:`optimfx.adamax`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(adamax)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(epsilon=eps)
        check_betas(betas)
        check_not_negative(weight_decay=weight_decay)
        flags = dict(foreach=foreach, maximize=maximize, differentiable=differentiable, capturable=capturable)
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **flags), fused)


class NAdam(Optimizer):
    """NAdam: Adam that looks ahead.

    Arguments: see :func:`optimfx.nadam`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(nadam)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(epsilon=eps)
        check_betas(betas)
        check_not_negative(weight_decay=weight_decay, momentum_decay=momentum_decay)
        numbers = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        flags = dict(maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, dict(**numbers, decoupled_weight_decay=decoupled_weight_decay, **flags), fused)


class RAdam(Optimizer):
    """RAdam: Adam that puts off its adaptive steps until their variance is known.

    Arguments: see :func:`optimfx.radam`. Flags: see :class:`~optimfx.optim.Optimizer`.
    """

    factory = staticmethod(radam)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        check_not_negative(epsilon=eps)
        check_betas(betas)
        check_not_negative(weight_decay=weight_decay)
        numbers = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        flags = dict(maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable)
        super().__init__(params, dict(**numbers, decoupled_weight_decay=decoupled_weight_decay, **flags), fused)


class SparseAdam(Optimizer):
    """Adam for sparse gradients alone, of dense, real parameters: it leaves alone what a gradient does not have.

    Arguments: see :func:`optimfx.sparse_adam`.
    """

    factory = staticmethod(sparse_adam)
    numeric_step = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        check_no_schedule(lr=lr)
        check(lr > 0.0, "Invalid learning rate: {}", lr)
        check(eps > 0.0, "Invalid epsilon value: {}", eps)
        check_betas(betas)
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, maximize=maximize))
        places = [(p, [i, j]) for i, group in enumerate(self.param_groups) for j, p in enumerate(group["params"])]
        sparse = [place for p, place in places if p.is_sparse]
        check(not sparse, "Sparse params at indices {}: SparseAdam requires dense parameter tensors", sparse)
        complexes = [place for p, place in places if p.is_complex()]
        check(not complexes, "Complex params at indices {}: SparseAdam does not support complex parameters", complexes)

    def _check(self, settings: Settings, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        if not all(grad.is_sparse for grad in grads):
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")

    def _begin(self, settings: Settings, param: Tensor) -> dict[str, Any]:
        return {**super()._begin(settings, param), "step": 0}

    def _count(self, counts: Any, step: Any, states: list[dict[str, Any]], scaling: Any) -> None:
        for state in states:
            state["step"] += 1
