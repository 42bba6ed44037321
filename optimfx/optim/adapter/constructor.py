"""Wraps the constructors of torch's classes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from optimfx.optim.adapter.validation import check_no_schedule


def constructor(init: Callable[..., None], signature: inspect.Signature) -> Callable[..., None]:
    """Wrap a constructor of torch's: it refuses schedules in words, and leaves it to the rule to begin a state."""
    _, _, *hyper = signature.parameters

    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        check_no_schedule(**dict(zip(hyper, args[1:])), **kwargs)
        init(self, *args, **kwargs)
        self._begin_early()

    construct.__signature__ = signature  # type: ignore[attr-defined]
    return construct
