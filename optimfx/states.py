"""What makes a NamedTuple the state of a transformation."""

from __future__ import annotations

from typing import TypeVar

import torch

from optimfx.printed import printed

State = TypeVar("State")


def state_class(cls: type[State]) -> type[State]:
    """A NamedTuple that a prompt shows as dtypes and shapes, and that ``torch.load`` takes for safe.

    >>> import io, torch, optimfx as fx
    >>> file = io.BytesIO()
    >>> torch.save(fx.adam().init(torch.zeros(3)), file)
    >>> torch.load(io.BytesIO(file.getvalue()))
    AdamState(step=0, exp_avg=f32[3], exp_avg_sq=f32[3], max_exp_avg_sq=())
    """
    torch.serialization.add_safe_globals([cls])
    return printed(cls)
