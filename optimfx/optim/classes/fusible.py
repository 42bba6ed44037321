"""The flag ``fused`` for torch's classes that lack it."""

from __future__ import annotations

import inspect
from typing import Any

from optimfx.optim.adapter.constructor import constructor
from optimfx.optim.adapter.validation import check_flags
from optimfx.optim.optimizer import Optimizer


class Fusible(Optimizer):
    """Adds ``fused`` to a class of torch that has no such flag; groups and checkpoints are as torch's."""

    def __init__(self, *args: Any, fused: bool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_flags({**self.defaults, "fused": fused})
        self.fused = fused

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled."""
        return {**super().__getstate__(), "fused": self.fused}

    @classmethod
    def _inherit(cls, twin: Any) -> None:
        signature = inspect.signature(twin.__init__)
        fused = inspect.Parameter("fused", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="bool | None")
        signature = signature.replace(parameters=[*signature.parameters.values(), fused])
        cls.__init__ = constructor(Fusible.__init__, signature)  # type: ignore[method-assign]
