"""L-BFGS as torch's class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optimfx.optim.adapter.hooks import with_hooks
from optimfx.optim.optimizer import Closure, Optimizer
from optimfx.rules.lbfgs import LBFGSState, lbfgs

LISTS = ("old_dirs", "old_stps", "ro")
"""Kept by torch as lists, and by the algorithm as rows: the oldest first, with zeros before it."""


class LBFGS(Optimizer, torch.optim.LBFGS):
    """L-BFGS: several iterations per step, on one group, with a closure that evaluates the model.

    Arguments: see :func:`optimfx.lbfgs`.
    """

    factory = staticmethod(lbfgs)
    counts = False

    @with_hooks
    @torch.no_grad()
    def step(self, closure: Closure) -> Any:
        """Iterate until a tolerance or a limit is met.

        Args:
            closure: clears the gradients, evaluates the model with gradients and returns the loss.

        Returns:
            The loss before the first iteration, as the closure returned it.
        """
        if len(self.param_groups) != 1:
            raise AssertionError(f"Expected exactly one param_group, but got {len(self.param_groups)}")
        (group,) = self.param_groups
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")
        params = group["params"]
        if group["max_iter"] < 1:
            return self._evaluated(closure, self.state[params[0]])
        before = [p.clone() for p in params]
        losses: list[Any] = []

        def value_and_grad(values: list[Tensor]) -> tuple[float, list[Tensor | None]]:
            for p, value in zip(params, values):
                p.copy_(value)
            with torch.enable_grad():
                losses.append(closure())
            return float(losses[-1]), [p.grad for p in params]

        try:
            for name in self.algorithm.present_in(self.defaults):
                group[name]
            update: Any = self.algorithm.bind(group).update
            state = self.unpacked(update.init(params), self.state[params[0]])
            after, new = update.run(None, state, before, stepping=True, inplace=False, value_and_grad_fn=value_and_grad)
        except BaseException:
            after = before
            raise
        finally:
            for p, value in zip(params, after):
                p.copy_(value)
        self.state[params[0]].update(self.packed(new, group["history_size"]))
        return losses[0]

    @staticmethod
    def _evaluated(closure: Closure, kept: dict[str, Any]) -> Any:
        """Evaluate the loss, where no iteration follows."""
        with torch.enable_grad():
            loss = closure()
        kept.update(func_evals=kept.get("func_evals", 0) + 1, n_iter=kept.get("n_iter", 0))
        return loss

    @staticmethod
    def unpacked(state: LBFGSState, kept: dict[str, Any]) -> LBFGSState:
        """Fill a state with what torch keeps in place of what it begins with."""
        fields = {}
        for name, first in state._asdict().items():
            if name in LISTS and kept.get(name):
                rows = torch.stack([torch.as_tensor(row, dtype=first.dtype, device=first.device) for row in kept[name]])
                fields[name] = torch.cat([first[len(rows) :], rows])
            elif name not in LISTS and kept.get(name) is not None:
                fields[name] = torch.as_tensor(kept[name], dtype=first.dtype, device=first.device)
        return state._replace(**fields)

    @staticmethod
    def packed(state: LBFGSState, history_size: int) -> dict[str, Any]:
        """Return what torch keeps of a state: counts as integers, and only the pairs that there are."""
        kept: dict[str, Any] = {"func_evals": int(state.func_evals), "n_iter": int(state.n_iter)}
        if not kept["n_iter"]:
            return kept
        pairs = int((state.ro != 0).sum())
        kept.update(d=state.d, t=float(state.t), H_diag=state.H_diag.to(state.d), prev_flat_grad=state.prev_flat_grad)
        kept.update({name: list(getattr(state, name)[history_size - pairs :].unbind()) for name in LISTS})
        kept["prev_loss"] = float(state.prev_loss)
        if kept["n_iter"] > 1:
            kept["al"] = [None] * history_size  # torch's scratch space
        return kept
