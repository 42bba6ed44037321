"""Projections of trees onto sets: the nearest point of a set, in the 2-norm.

They are functions of whole trees, whose elements are taken for one vector, and have derivatives. As the last link of a
chain, :func:`project` keeps the parameters in the set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimfx.core import GradientTransformation, Params, Updates, tree
from optimfx.core.stateless import stateless

__all__ = [
    "project",
    "projection_box",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_vector",
]


def project(projection: Callable[[Params], Params]) -> GradientTransformation:
    r"""Change the updates so that the new parameters are in a set: the last link of a chain.

    .. math:: u \to P(\theta + u) - \theta

    Args:
        projection: maps a tree to the nearest one in the set, as the functions of this module do.

    Returns:
        A transformation without state.

    Raises:
        ValueError: at ``update``, no ``params``.

    As Optax's ``keep_params_nonnegative``, for any set.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(fx.sgd(lr=1.0), fx.projections.project(fx.projections.projection_simplex))
    >>> params = {"w": torch.tensor([0.5, 0.5])}
    >>> fx.step(tx, {"w": torch.tensor([1.0, -1.0])}, tx.init(params), params)[0]
    {'w': tensor([0., 1.])}
    """

    def projected(updates: Updates, params: Params | None) -> Updates:
        if params is None:
            raise ValueError("project needs the parameters: call update(updates, state, params).")
        old, spec = tree.flatten(params)
        increments = tree.flatten_as(spec, updates, "updates", "params")
        moved = [None if p is None or u is None else p + u for p, u in zip(old, increments)]
        new = tree.flatten_as(spec, projection(tree.unflatten(spec, moved)), "the projection", "params")
        return tree.unflatten(spec, [None if u is None else x - p for x, p, u in zip(new, old, increments)])

    return stateless(projected)


def projection_non_negative(pytree: Params) -> Params:
    r"""Project a tree to the nearest without negative elements: :math:`\max(x, 0)`.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_non_negative({"w": torch.tensor([-1.0, 2.0])})
    {'w': tensor([0., 2.])}
    """
    return _each(pytree, lambda x: x.clamp_min(0))


def projection_box(pytree: Params, lower: Any, upper: Any) -> Params:
    r"""Project a tree to the nearest within bounds: :math:`\min(\max(x, l), u)`.

    Args:
        pytree: the tree.
        lower: :math:`l`, a number for all elements, or a tree of numbers or tensors.
        upper: :math:`u`, likewise.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_box({"w": torch.tensor([-1.0, 2.0])}, 0.0, {"w": 1.5})
    {'w': tensor([0.0000, 1.5000])}
    """
    leaves, spec = tree.flatten(pytree)
    bounds = [[x] * len(leaves) if _is_scalar(x) else spec.flatten_up_to(x) for x in (lower, upper)]
    return tree.unflatten(spec, [None if x is None else _clamped(x, *each) for x, *each in zip(leaves, *bounds)])


def projection_hypercube(pytree: Params, scale: Any = 1) -> Params:
    """Project a tree to the nearest whose elements are in ``[0, scale]``; ``scale`` is a number, or a tree of them.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_hypercube({"w": torch.tensor([-1.0, 2.0])})
    {'w': tensor([0., 1.])}
    """
    return projection_box(pytree, 0, scale)


def projection_simplex(pytree: Params, scale: float | Tensor = 1) -> Params:
    r"""Project a tree to the nearest without negative elements whose sum is ``scale``.

    .. math:: \max(x - \tau, 0), \qquad \sum_i \max(x_i - \tau, 0) = s

    Args:
        pytree: the tree.
        scale: :math:`s > 0`.

    References:
        Duchi et al., Efficient Projections onto the l1-Ball for Learning in High Dimensions, 2008.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_simplex({"w": torch.tensor([0.5, 1.5])})
    {'w': tensor([0., 1.])}
    """
    return _together(pytree, lambda x: _simplex(x, scale))


def projection_l1_sphere(pytree: Params, scale: float | Tensor = 1) -> Params:
    """Project a tree to a nearest whose 1-norm is ``scale``.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_l1_sphere({"w": torch.tensor([-0.25, 0.25])})
    {'w': tensor([-0.5000,  0.5000])}
    """
    return _together(pytree, lambda x: x.sign() * _simplex(x.abs(), scale))


def projection_l1_ball(pytree: Params, scale: float | Tensor = 1) -> Params:
    """Project a tree to the nearest whose 1-norm is at most ``scale``.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_l1_ball({"w": torch.tensor([-2.0, 0.25])})
    {'w': tensor([-1.,  0.])}
    """
    return _together(pytree, lambda x: torch.where(x.abs().sum() <= scale, x, x.sign() * _simplex(x.abs(), scale)))


def projection_l2_sphere(pytree: Params, scale: float | Tensor = 1) -> Params:
    """Project a tree to the nearest whose 2-norm is ``scale``; NaN for one of zeros.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_l2_sphere({"w": torch.tensor([3.0, 4.0])})
    {'w': tensor([0.6000, 0.8000])}
    """
    return _together(pytree, lambda x: x * (scale / torch.linalg.vector_norm(x)))


def projection_l2_ball(pytree: Params, scale: float | Tensor = 1) -> Params:
    """Project a tree to the nearest whose 2-norm is at most ``scale``.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_l2_ball({"w": torch.tensor([3.0, 4.0])}, 10.0)
    {'w': tensor([3., 4.])}
    """

    def ball(x: Tensor) -> Tensor:
        squared = x.square().sum()
        within = squared <= scale**2
        # The derivative must be finite also for the branch that is not chosen.
        return torch.where(within, x, x * (scale * torch.where(within, 1, squared).rsqrt()))

    return _together(pytree, ball)


def projection_linf_ball(pytree: Params, scale: float | Tensor = 1) -> Params:
    """Project a tree to the nearest whose elements are in ``[-scale, scale]``.

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_linf_ball({"w": torch.tensor([3.0, -0.5])})
    {'w': tensor([ 1.0000, -0.5000])}
    """
    return _each(pytree, lambda x: _clamped(x, -scale, scale))


def projection_vector(x: Params, a: Params) -> Params:
    r"""Project a tree to the nearest multiple of another.

    .. math:: \frac{\langle x, a \rangle}{\langle a, a \rangle} \, a

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_vector({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([2.0, 0.0])})
    {'w': tensor([3., 0.])}
    """
    return _beside(x, a, lambda x, a: a * ((x @ a) / (a @ a)))


def projection_hyperplane(x: Params, a: Params, b: float | Tensor) -> Params:
    r"""Project a tree to the nearest with :math:`\langle x, a \rangle = b`.

    .. math:: x - \frac{\langle x, a \rangle - b}{\langle a, a \rangle} \, a

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_hyperplane({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.0, 0.0])}, 1.0)
    {'w': tensor([1., 4.])}
    """
    return _beside(x, a, lambda x, a: x - a * ((x @ a - b) / (a @ a)))


def projection_halfspace(x: Params, a: Params, b: float | Tensor) -> Params:
    r"""Project a tree to the nearest with :math:`\langle x, a \rangle \le b`.

    .. math:: x - \frac{\max(\langle x, a \rangle - b, 0)}{\langle a, a \rangle} \, a

    >>> import torch, optimfx as fx
    >>> fx.projections.projection_halfspace({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.0, 0.0])}, 5.0)
    {'w': tensor([3., 4.])}
    """
    return _beside(x, a, lambda x, a: x - a * ((x @ a - b).clamp_min(0) / (a @ a)))


def _simplex(x: Tensor, scale: float | Tensor) -> Tensor:
    """Project a vector, by the largest elements: so many that the threshold is less than each of them."""
    ordered = x.sort(descending=True).values
    counts = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
    thresholds = (ordered.cumsum(0) - scale) / counts
    active = (ordered > thresholds).sum() - 1
    return (x - thresholds.gather(0, active.unsqueeze(0))).clamp_min(0)


def _is_scalar(x: Any) -> bool:
    return isinstance(x, (int, float)) or (isinstance(x, Tensor) and x.dim() == 0)


def _clamped(x: Tensor, lower: Any, upper: Any) -> Tensor:
    low, high = (bound.to(x) if isinstance(bound, Tensor) else x.new_tensor(bound) for bound in (lower, upper))
    return torch.minimum(torch.maximum(x, low), high)


def _each(pytree: Params, function: Callable[[Tensor], Tensor]) -> Params:
    leaves, spec = tree.flatten(pytree)
    return tree.unflatten(spec, [None if x is None else function(x) for x in leaves])


def _together(pytree: Params, function: Callable[..., Tensor], *others: Sequence[Any]) -> Params:
    """Apply a function to the vector of all elements, back in the tree; to further trees, leaf by leaf alike."""
    leaves, spec = tree.flatten(pytree)
    there = [x for x in leaves if x is not None]
    if not there:
        return pytree
    vectors = [torch.cat([x.flatten() for x in each if x is not None]) for each in (there, *others)]
    parts = iter(torch.split(function(*vectors), [x.numel() for x in there]))
    return tree.unflatten(spec, [None if x is None else next(parts).view(x.shape).to(x.dtype) for x in leaves])


def _beside(x: Params, a: Params, function: Callable[[Tensor, Tensor], Tensor]) -> Params:
    _, spec = tree.flatten(x)
    return _together(x, function, tree.flatten_as(spec, a, "a", "x"))
