"""Momentum over an estimate of the Hessian's diagonal, clipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimfx.combinators.chain import chain
from optimfx.combinators.select import choose
from optimfx.core import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    Array,
    Betas,
    Description,
    GradientTransformation,
    Hyper,
    NonNegative,
    Params,
    Positive,
    PyTree,
    State,
    Updates,
    check_count,
    check_transformation,
    factory,
    objective,
    state_class,
    tracing,
    tree,
)
from optimfx.core.hyperparams import as_step_number, resolve
from optimfx.core.transformation import Described
from optimfx.core.types import Value
from optimfx.execution import check_state, count_from_zero
from optimfx.ops.random import normal_like
from optimfx.transforms.scale import scale_by_lr
from optimfx.transforms.weight_decay import add_decayed_weights


@state_class
class HutchinsonState(NamedTuple):
    """The state of an estimator of the Hessian's diagonal."""

    step: Tensor  # shape=(): estimates made


@state_class
class SophiaState(NamedTuple):
    """The state of Sophia."""

    step: Tensor  # shape=(): updates taken
    exp_avg: PyTree  # like the parameters: first moment
    hessian: PyTree  # like the parameters: average of the Hessian's diagonal
    hessian_fn_state: State


@dataclass(frozen=True, eq=False)
class Hutchinson(Described):
    """The ``update`` of :func:`hutchinson_estimator_diag_hessian`."""

    seed: int

    def init(self, params: Params) -> HutchinsonState:
        return HutchinsonState(count_from_zero(params))

    def __call__(
        self,
        updates: Updates,
        state: State,
        params: Params | None = None,
        *,
        inplace: bool = False,
        obj_fn: Callable[[Params], Tensor] | None = None,
        **extra: Any,
    ) -> tuple[Updates, HutchinsonState]:
        check_state("hutchinson_estimator_diag_hessian", HutchinsonState, state)
        if params is None or obj_fn is None:
            raise ValueError(
                "the estimate of the Hessian needs params and obj_fn: update(updates, state, params, obj_fn=...)."
            )
        function, point = objective.of_tensors(obj_fn, params)
        point = [p.detach() for p in point]
        signs = [normal_like(p, self.seed, state.step, i).sign() for i, p in enumerate(point)]
        products: list[Tensor] = torch.func.jvp(torch.func.grad(function), (point,), (signs,))[1]
        estimates = (sign * product for sign, product in zip(signs, products))
        column, spec = tree.flatten(params)
        estimate = [None if p is None else next(estimates) for p in column]
        return tree.unflatten(spec, estimate), HutchinsonState(state.step + 1)

    def description(self) -> Description:
        return Description("hutchinson_estimator_diag_hessian", {"seed": self.seed})


@dataclass(frozen=True, eq=False)
class ScaleBySophia(Described):
    """The ``update`` of :func:`scale_by_sophia`."""

    betas: tuple[Hyper, Hyper]
    eps: Hyper
    gamma: Hyper
    clip_threshold: Hyper | None
    update_interval: int
    hessian_diagonal_fn: GradientTransformation

    def init(self, params: Params) -> SophiaState:
        column, spec = tree.flatten(params)
        exp_avg, hessian = ([p if p is None else torch.zeros_like(p) for p in column] for _ in range(2))
        inner = self.hessian_diagonal_fn.init(params)
        return SophiaState(count_from_zero(params), tree.unflatten(spec, exp_avg), tree.unflatten(spec, hessian), inner)

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, SophiaState]:
        check_state("scale_by_sophia", SophiaState, state)
        before = as_step_number(state.step)
        beta1, beta2, eps, gamma = (resolve(h, before) for h in (*self.betas, self.eps, self.gamma))
        bound = None if self.clip_threshold is None else resolve(self.clip_threshold, before)
        grads, spec = tree.flatten(updates)
        averages: list[Any] = spec.flatten_up_to(state.exp_avg)
        hessian: list[Any] = spec.flatten_up_to(state.hessian)
        averages = [m if g is None else m + (1 - beta1) * (g - m) for g, m in zip(grads, averages)]
        correction = 1 - beta1 ** (before + 1)
        results = [
            None if g is None else self._direction(m / correction, h, eps, gamma, bound)
            for g, m, h in zip(grads, averages, hessian)
        ]
        due = tracing.read_bool(state.step % self.update_interval == 0)
        inner, column = state.hessian_fn_state, hessian
        if due is not False:
            given, after = self.hessian_diagonal_fn.update(updates, inner, params, **extra)
            estimate: list[Any] = spec.flatten_up_to(given)
            averaged = [
                h if g is None or e is None else h + (1 - beta2) * (e - h) for g, h, e in zip(grads, hessian, estimate)
            ]
            column, inner = choose(due, (averaged, after), (hessian, inner))
        exp_avg = tree.unflatten(spec, averages)
        return tree.unflatten(spec, results), SophiaState(state.step + 1, exp_avg, tree.unflatten(spec, column), inner)

    def _direction(self, average: Tensor, hessian: Tensor, eps: Value, gamma: Value, bound: Value) -> Array:
        ratio = average / (gamma * hessian).clamp(min=eps)
        return ratio if bound is None else ratio.clamp(-bound, bound)

    def description(self) -> Description:
        names = ("betas", "eps", "gamma", "clip_threshold", "update_interval")
        return Description(
            "scale_by_sophia", {name: getattr(self, name) for name in names}, [("", self.hessian_diagonal_fn)]
        )


def hutchinson_estimator_diag_hessian(seed: int = 0) -> GradientTransformation:
    r"""Estimate the diagonal of the Hessian: :math:`s \odot (H s)`, for random signs :math:`s`.

    Args:
        seed: an integer in [0, 2**24).

    Returns:
        A transformation with state :class:`HutchinsonState`, whose update takes ``obj_fn``, a function of the
        parameters alone that gives the loss: ``update(updates, state, params, obj_fn=obj_fn)``.

    Raises:
        ValueError: ``seed`` is not such an integer; at ``update``, no ``params`` or no ``obj_fn``.

    References:
        Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines, 1989.

    As Optax's, with other random signs.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.hutchinson_estimator_diag_hessian(), {"w": torch.tensor([1.0, 2.0])}
    >>> tx.update(params, tx.init(params), params, obj_fn=lambda p: (p["w"] ** 3).sum())[0]
    {'w': tensor([ 6., 12.])}
    """
    check_count(NON_NEGATIVE, seed=seed)
    update = Hutchinson(seed)
    return GradientTransformation(update.init, update)


@factory
def scale_by_sophia(
    betas: Betas = (0.965, 0.99),
    eps: Positive = 1e-8,
    gamma: NonNegative = 0.01,
    clip_threshold: Hyper | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
) -> GradientTransformation:
    r"""Divide momentum by an average of the Hessian's diagonal, and clip.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            u_t = \operatorname{clip}\left(\frac{m_t / (1 - \beta_1^t)}{\max(\gamma h_{t-1}, \epsilon)}, \pm c\right),
            \qquad h_t = \beta_2 h_{t-1} + (1 - \beta_2) \hat h_t

    where :math:`\hat h_t` is estimated every :math:`k` steps, from the first; between, :math:`h` stays.

    Args:
        betas: decays of the momentum and of the diagonal, each in [0, 1).
        eps: :math:`\epsilon > 0`, the least curvature that is divided by.
        gamma: :math:`\gamma \ge 0`, what the diagonal is multiplied by: the larger, the fewer elements are clipped.
        clip_threshold: :math:`c`; ``None`` clips nothing.
        update_interval: :math:`k \ge 1`.
        hessian_diagonal_fn: a transformation whose updates are the estimates; by default
            :func:`hutchinson_estimator_diag_hessian`, which needs ``obj_fn`` at ``update``.

    Returns:
        A transformation with state :class:`SophiaState`: ``step`` (0-d), ``exp_avg`` and ``hessian`` (like the
        parameters), and ``hessian_fn_state``.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type.

    References:
        Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training, 2023.

    As Optax's. Under ``torch.compile`` and ``torch.func`` transforms each step estimates.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.scale_by_sophia(), {"w": torch.tensor([1.0, -2.0])}
    >>> tx.update(params, tx.init(params), params, obj_fn=lambda p: (p["w"] ** 2).sum())[0]
    {'w': tensor([ 1., -1.])}
    """
    check_count(AT_LEAST_ONE, update_interval=update_interval)
    estimator = hessian_diagonal_fn or hutchinson_estimator_diag_hessian()
    check_transformation("hessian_diagonal_fn", estimator)
    update = ScaleBySophia(betas, eps, gamma, clip_threshold, update_interval, estimator)
    return GradientTransformation(update.init, update)


def sophia(
    lr: Hyper,
    betas: tuple[Hyper, Hyper] = (0.965, 0.99),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-4,
    gamma: Hyper = 0.01,
    clip_threshold: Hyper | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
) -> GradientTransformation:
    r"""Sophia: :func:`scale_by_sophia`, decoupled weight decay, and a learning rate.

    .. math:: \theta_t = \theta_{t-1} - \gamma_t (u_t + \lambda \theta_{t-1})

    Args:
        lr: learning rate :math:`\gamma_t \ge 0`.
        betas: decays of the momentum and of the Hessian's diagonal, each in [0, 1).
        eps: the least curvature that is divided by, above 0.
        weight_decay: decoupled decay :math:`\lambda \ge 0`.
        gamma: what the diagonal is multiplied by, at least 0.
        clip_threshold: the largest element of :math:`u_t`; ``None`` clips nothing.
        update_interval: after how many steps the diagonal is estimated again, at least 1.
        hessian_diagonal_fn: as in :func:`scale_by_sophia`.

    Returns:
        A transformation with the states of its links. By default, its update takes ``obj_fn``.

    Raises:
        ValueError, TypeError: a hyperparameter is out of range or not a scalar; at ``update``, no ``params``.

    References:
        Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training, 2023.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.sophia(lr=0.1, weight_decay=0.0), {"w": torch.tensor([1.0, -2.0])}
    >>> fx.step(tx, params, tx.init(params), params, obj_fn=lambda p: (p["w"] ** 2).sum())[0]
    {'w': tensor([ 0.9000, -1.9000])}
    """
    direction = scale_by_sophia(betas, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn)
    return chain(direction, add_decayed_weights(weight_decay), scale_by_lr(lr))
