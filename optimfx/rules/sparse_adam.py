"""Adam on the elements that have a gradient. Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015."""

from __future__ import annotations

from typing import NamedTuple

from optimfx import ops
from optimfx.core import Array, Betas, DType, GradientTransformation, NonNegative, PyTree, Rule, Scalar, factory
from optimfx.execution import transformation


class SparseAdamState(NamedTuple):
    step: PyTree  # shape=() per leaf: updates taken
    exp_avg: PyTree  # like the parameters: first moment
    exp_avg_sq: PyTree  # like the parameters: second moment


class Scalars(NamedTuple):
    step_size: Scalar  # lr sqrt(1 - beta2^t) / (1 - beta1^t)
    weight1: Scalar  # 1 - beta1
    weight2: Scalar  # 1 - beta2
    eps: Scalar


def init(param: Array) -> tuple[Array, Array]:
    return ops.zeros_like(param), ops.zeros_like(param)


def scalars(step: Scalar, lr: Scalar, betas: tuple[Scalar, Scalar], eps: Scalar) -> Scalars:
    beta1, beta2 = betas
    return Scalars(lr * ops.sqrt(1 - beta2**step) / (1 - beta1**step), 1 - beta1, 1 - beta2, eps)


def leaf(
    base: Array, param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, s: Scalars
) -> tuple[Array, Array, Array]:
    exp_avg = exp_avg + (grad - exp_avg) * s.weight1
    exp_avg_sq = exp_avg_sq + (grad**2 - exp_avg_sq) * s.weight2
    return ops.add(base, exp_avg / (ops.sqrt(exp_avg_sq) + s.eps) * -s.step_size), exp_avg, exp_avg_sq


SPARSE_ADAM = Rule(leaf, scalars, init, SparseAdamState, sparse=lambda s: True)


@factory
def sparse_adam(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    *,
    maximize: bool = False,
    state_dtype: DType | None = None,
) -> GradientTransformation:
    r"""Adam that leaves alone, moments included, every element that a sparse gradient does not have. For embeddings.

    .. math::
        m_t &= m_{t-1} + (1 - \beta_1)(g_t - m_{t-1}), \qquad v_t = v_{t-1} + (1 - \beta_2)(g_t^2 - v_{t-1}) \\
        \theta_t &= \theta_{t-1} - \gamma \, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \,
            \frac{m_t}{\sqrt{v_t} + \epsilon} \qquad\text{where } g_t \text{ has an element}

    The step :math:`t` counts updates of the leaf, not of the element. Duplicate indices are summed.

    Args:
        lr: learning rate :math:`\gamma \ge 0`: the size of a step, in parameter units.
        betas: decays of the averages of the gradient and of its square, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, added to the root before its bias correction, in gradient units.

    Returns:
        A transformation with state :class:`SparseAdamState`: ``step``, ``exp_avg`` and ``exp_avg_sq`` (like the
        parameters, dense). ``update`` gives sparse updates for sparse gradients.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015.

    Differs from torch in taking dense gradients too (every element is there) and complex parameters. :func:`adam`
    itself corrects the root before it adds ``eps``.

    >>> import torch, optimfx as fx
    >>> table = torch.zeros(1000, 2, requires_grad=True)
    >>> rows = torch.nn.functional.embedding(torch.tensor([3, 7, 3]), table, sparse=True)
    >>> (grad,) = torch.autograd.grad(rows.sum(), table)
    >>> grad.layout
    torch.sparse_coo
    >>> tx = fx.sparse_adam(lr=0.1)
    >>> params = table.detach()
    >>> params, state = fx.step(tx, grad, tx.init(params), params)
    >>> params[[2, 3, 7]]
    tensor([[ 0.0000,  0.0000],
            [-0.1000, -0.1000],
            [-0.1000, -0.1000]])
    """
    hyper = {"lr": lr, "betas": betas, "eps": eps}
    return transformation("sparse_adam", SPARSE_ADAM, maximize=maximize, state_dtype=state_dtype, **hyper)
