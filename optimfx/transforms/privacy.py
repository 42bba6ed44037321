"""Gradients of single examples, clipped and made noisy: differentially private SGD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optimfx.combinators.chain import chain
from optimfx.core import (
    NON_NEGATIVE,
    GradientTransformation,
    NonNegative,
    PyTree,
    check_count,
    factory,
    tree,
)
from optimfx.core.hyperparams import resolve
from optimfx.core.types import Array, Hyper, Value
from optimfx.rules.sgd import sgd
from optimfx.transforms.noise import Noise


def per_example_global_norm_clip(grads: PyTree, l2_norm_clip: Value) -> tuple[PyTree, Tensor]:
    """Clip the gradient of each example to a global 2-norm, and add them up.

    Args:
        grads: a tree of gradients whose first dimension counts the examples, as ``torch.vmap`` makes them.
        l2_norm_clip: the greatest norm of an example's gradient over all leaves.

    Returns:
        The sum over examples, a tree like the parameters; and how many gradients were clipped, a 0-d tensor.

    Raises:
        ValueError: the leaves do not agree on the number of examples.

    References:
        Abadi et al., Deep Learning with Differential Privacy, 2016.

    >>> import torch, optimfx as fx
    >>> clipped, count = fx.per_example_global_norm_clip({"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}, 1.0)
    >>> clipped["w"], count
    (tensor([0.9000, 1.2000]), tensor(1))
    """
    leaves, spec = tree.flatten(grads)
    _count_examples(leaves)
    clipped, count = _clip_examples(leaves, l2_norm_clip)
    return tree.unflatten(spec, clipped), count


def per_example_layer_norm_clip(
    grads: PyTree, global_l2_norm_clip: Value, uniform: bool = True
) -> tuple[PyTree, PyTree]:
    """Clip the gradient of each example leaf by leaf, and add them up.

    Args:
        grads: a tree of gradients whose first dimension counts the examples, as ``torch.vmap`` makes them.
        global_l2_norm_clip: the norm that the bounds of all leaves have together.
        uniform: the same bound for every leaf; else bounds in proportion to the root of the number of elements.

    Returns:
        The sum over examples, a tree like the parameters; and a tree of how many gradients were clipped.

    Raises:
        ValueError: the leaves do not agree on the number of examples.

    References:
        McMahan et al., Learning Differentially Private Recurrent Language Models, 2018.

    >>> import torch, optimfx as fx
    >>> grads = {"w": torch.tensor([[3.0], [0.3]]), "b": torch.tensor([2.0, 0.2])}
    >>> fx.per_example_layer_norm_clip(grads, 2**0.5)[0]
    {'w': tensor([1.3000]), 'b': tensor(1.2000)}
    """
    leaves, spec = tree.flatten(grads)
    _count_examples(leaves)
    there = [leaf for leaf in leaves if leaf is not None]
    total = sum([leaf[0].numel() for leaf in there])
    pairs: list[Array] = []
    for leaf in leaves:
        if leaf is None:
            pairs.append((None, None))
            continue
        part = 1 / len(there) if uniform else leaf[0].numel() / total
        (clipped,), count = _clip_examples([leaf], global_l2_norm_clip * part**0.5)
        pairs.append((clipped, count))
    return tree.unflatten(spec, [x for x, _ in pairs]), tree.unflatten(spec, [x for _, x in pairs])


def _count_examples(leaves: list[Array]) -> Value:
    """Return the size of the first dimension of all leaves."""
    sizes = {tuple(leaf.shape[:1]) for leaf in leaves if leaf is not None}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            f"gradients of single examples have a first dimension that counts them, as torch.vmap of torch.func.grad "
            f"makes it; the first dimensions of these are {sorted(sizes)}."
        )
    ((size,),) = sizes
    return size


def _clip_examples(leaves: list[Array], bound: Value) -> tuple[list[Array], Tensor]:
    """Return the sums over the examples, and how many of these were clipped."""
    there = [leaf for leaf in leaves if leaf is not None]
    norms = torch.stack([torch.linalg.vector_norm(leaf.unsqueeze(1).flatten(1), dim=1) for leaf in there])
    factors = (bound / torch.linalg.vector_norm(norms, dim=0)).clamp(max=1.0).nan_to_num(nan=1.0)
    sums = [None if g is None else torch.tensordot(factors.to(g.dtype), g, dims=1) for g in leaves]
    return sums, (factors < 1).sum()


@dataclass(frozen=True, eq=False)
class DifferentiallyPrivateAggregate(Noise):
    """The ``update`` of :func:`differentially_private_aggregate`."""

    name = "differentially_private_aggregate"
    l2_norm_clip: Hyper
    noise_multiplier: Hyper

    def measure(self, leaves: list[Array], before: Value) -> tuple[list[Array], Value]:
        bound, multiplier = resolve(self.l2_norm_clip, before), resolve(self.noise_multiplier, before)
        size = _count_examples(leaves)
        sums, _ = _clip_examples(leaves, bound)
        return [None if x is None else x / size for x in sums], bound * multiplier / size


@factory
def differentially_private_aggregate(
    l2_norm_clip: NonNegative, noise_multiplier: NonNegative, seed: int
) -> GradientTransformation:
    r"""Average the gradients of single examples, each clipped, with noise: the first link of private training.

    .. math::
        \frac{1}{n} \left(\sum_{i=1}^n g_i \min(1, C / \lVert g_i \rVert) + \mathcal{N}(0, \sigma^2 C^2)\right)

    Args:
        l2_norm_clip: :math:`C \ge 0`, the greatest norm of an example's gradient.
        noise_multiplier: :math:`\sigma \ge 0`, the deviation of the noise over that norm.
        seed: an integer in [0, 2**24), which must not be known to those from whom the examples are kept. The noise is
            made of it by a hash that is not a cryptographic one.

    Returns:
        A transformation with state :class:`~optimfx.transforms.noise.NoiseState`, whose updates are a tree of gradients
        with a first dimension of examples.

    Raises:
        ValueError, TypeError: an argument is out of range or not a scalar; at ``update``, the leaves do not agree on
            the number of examples.

    References:
        Abadi et al., Deep Learning with Differential Privacy, 2016.

    As Optax's, with other random numbers.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.differentially_private_aggregate(1.0, 0.0, seed=1), {"w": torch.zeros(2)}
    >>> tx.update({"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}, tx.init(params), params)[0]
    {'w': tensor([0.3000, 0.4000])}
    """
    check_count(NON_NEGATIVE, seed=seed)
    update = DifferentiallyPrivateAggregate(seed, l2_norm_clip, noise_multiplier)
    return GradientTransformation(update.init, update)


@factory
def dpsgd(
    lr: NonNegative,
    l2_norm_clip: NonNegative,
    noise_multiplier: NonNegative,
    seed: int,
    momentum: NonNegative = 0.0,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Differentially private SGD: :func:`~optimfx.differentially_private_aggregate`, then :func:`~optimfx.sgd`.

    Args:
        lr: learning rate :math:`\ge 0`.
        l2_norm_clip: the greatest norm of an example's gradient :math:`\ge 0`.
        noise_multiplier: the deviation of the noise over that norm :math:`\ge 0`.
        seed: an integer in [0, 2**24).
        momentum: of SGD :math:`\ge 0`.
        nesterov: look ahead along the momentum.

    Returns:
        A transformation with the states of its two links, whose updates are the gradients of single examples.

    References:
        Abadi et al., Deep Learning with Differential Privacy, 2016.

    >>> import torch, optimfx as fx
    >>> tx, params = fx.dpsgd(0.5, l2_norm_clip=1.0, noise_multiplier=0.0, seed=1), {"w": torch.zeros(2)}
    >>> fx.step(tx, {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}, tx.init(params), params)[0]
    {'w': tensor([-0.1500, -0.2000])}
    """
    private = differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed)
    return chain(private, sgd(lr=lr, momentum=momentum, nesterov=nesterov))
