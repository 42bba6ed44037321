"""Runs the hooks around a step, at no cost where there are none."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.optim import optimizer as theirs


def with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a ``step`` as torch does: in hooks and the profiler's record, if there is a hook or a profiler.

    On a small model the record alone costs a third of torch's step, though nobody reads it.
    """
    whole = torch.optim.Optimizer.profile_hook_step(step)

    @wraps(step)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        hooks = hooks or theirs._global_optimizer_pre_hooks or theirs._global_optimizer_post_hooks
        plain = not (hooks or torch.compiler.is_compiling() or torch._C._autograd._profiler_enabled())
        return step(self, *args, **kwargs) if plain else whole(self, *args, **kwargs)

    run.hooked = True  # type: ignore[attr-defined]
    return run
