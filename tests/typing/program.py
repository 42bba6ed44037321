"""A user's program, for the type checker: what it gives in keeps its type, and a wrong argument is found."""

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_type

import optimfx as fx
import optimfx.typing as fxt

Weights = dict[str, Tensor]


class Model(NamedTuple):
    weight: Tensor
    bias: Tensor


def train(tx: fx.GradientTransformation, params: Weights, grads: Weights) -> Weights:
    state: fxt.State = tx.init(params)
    updates, state = tx.update(grads, state, params)
    assert_type(updates, Weights)
    assert_type(fx.apply_updates(params, updates), Weights)
    after, state = fx.step(tx, grads, state, params, inplace=True)
    assert_type(after, Weights)
    return after


def average(new: Model, old: Model) -> Model:
    assert_type(fx.incremental_update(new, old, 0.1), Model)
    assert_type(fx.periodic_update(new, old, 1, 2), Model)
    return fx.incremental_update(new, old, 0.1)


def warm_up(rate: fxt.Hyper = 1e-3) -> fx.GradientTransformation:
    schedule: fxt.Schedule = fx.schedules.warmup_cosine(1e-3, 10, 100)
    make = fx.inject_hyperparams(fx.adamw)
    assert_type(make(lr=rate, weight_decay=0.1), fx.GradientTransformation)
    return fx.chain(fx.clip_by_global_norm(1.0), make(lr=schedule))


def choose(executor: fxt.ExecutorName) -> None:
    with fx.execution.use(executor, "eager"):
        pass


def drop_in(model: torch.nn.Module) -> torch.optim.Optimizer:
    return fx.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def refused() -> None:
    """Each line is an error to the checker."""
    fx.adamw(learning_rate=1e-3)  # type: ignore[call-arg]
    fx.inject_hyperparams(fx.adamw)(learning_rate=1e-3)  # type: ignore[call-arg]
    fx.step(fx.sgd(), {"w": torch.ones(1)}, ())  # type: ignore[call-arg]
    with fx.execution.use("cuda"):  # type: ignore[arg-type]
        pass
    fx.optim.AdamW([torch.nn.Parameter(torch.ones(1))], rate=1e-3)  # type: ignore[call-arg]
