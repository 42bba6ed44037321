"""A transformation as a person reads it: what it is made of, with which hyperparameters, and how it runs."""

from __future__ import annotations

from collections.abc import Iterator

from optimfx.core import Described, GradientTransformation, Params, check_transformation
from optimfx.core.reprs import ReprString, call, name_of
from optimfx.execution import explain


def describe(tx: GradientTransformation, params: Params | None = None) -> ReprString:
    """Describe what a transformation is made of: a line for each part, which is the call that makes it.

    Arguments that are switched off by default, and are, stay out of it.

    Args:
        tx: any transformation; one that is a pair of functions is shown by their name.
        params: with parameters, how a step of them in place runs is added, as :func:`optimfx.explain` tells.

    Raises:
        TypeError: ``tx`` is not a transformation: a factory that was not called, say.

    >>> import torch, optimfx as fx
    >>> tx = fx.chain(
    ...     fx.clip_by_global_norm(1.0),
    ...     fx.partition(
    ...         {"body": fx.lion(lr=fx.schedules.linear(3e-4)), "head": fx.sgd(lr=0.1)}, {"w": "body", "b": "head"}
    ...     ),
    ... )
    >>> fx.describe(tx)
    chain
    ├─ clip_by_global_norm(max_norm=1)
    └─ partition
       ├─ body: lion(lr=linear(lr=0.0003), betas=(0.9, 0.99))
       └─ head: sgd(lr=0.1)
    """
    check_transformation("describe: tx", tx)
    lines = list(_lines(tx))
    return ReprString("\n".join(lines if params is None else [*lines, "", repr(explain(tx, params))]))


def _lines(tx: GradientTransformation) -> Iterator[str]:
    """Split a part into lines, each as far to the left as if it stood alone."""
    if not isinstance(tx.update, Described):
        yield name_of(tx.update)
        return
    name, hyper, parts = tx.update.description()
    yield call(name, hyper).removesuffix("()" if parts else "")
    for at, (label, part) in enumerate(parts):
        last = at == len(parts) - 1
        first, *rest = _lines(part)
        yield f"{'└─' if last else '├─'} {f'{label}: ' if label else ''}{first}"
        yield from (f"{' ' if last else '│'}  {line}" for line in rest)
