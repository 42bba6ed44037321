"""Any transformation as an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from optimfx.base import GradientTransformation, State
from optimfx.execution import use
from optimfx.inject import InjectHyperparamsState
from optimfx.optim.live import Group
from optimfx.optim.optimizer import Closure, Optimizer
from optimfx.tree import NAMESPACE
from optimfx.update import step


class TransformOptimizer(Optimizer):
    """A transformation as a :class:`torch.optim.Optimizer`: with groups, hooks, schedulers and checkpoints.

    Each group of parameters is one tree, a list, with a state of its own; a norm over all leaves is one over the group.
    The state stands in ``optimizer.state[f"group {i}"]``, its tensors by their paths, and is read at every step.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either.
        tx: the transformation. What it keeps under ``inject_hyperparams`` becomes keys of the groups, which a scheduler
            can drive and a group may override; a schedule's value is shown there.
        fused: compile what runs as one (see :func:`optimfx.explain`) where that is possible, as the classes do.

    Raises:
        ValueError, TypeError: as torch's optimizers raise for parameters, and the transformation for their kind.

    >>> import torch, optimfx as fx
    >>> model = torch.nn.Linear(2, 1)
    >>> tx = fx.chain(fx.clip_by_global_norm(1.0), fx.inject_hyperparams(fx.adamw)(lr=0.1))
    >>> optimizer = fx.optim.TransformOptimizer(model.parameters(), tx)
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.05
    """

    def __init__(self, params: Any, tx: GradientTransformation, *, fused: bool | None = None) -> None:
        self.tx = tx
        self._forms: dict[int, Form] = {}
        super().__init__(params, _hyperparams(tx.init([torch.zeros(2, 2)])), fused)
        with torch.no_grad():
            for index, group in enumerate(self.param_groups):
                self._keep(index, tx.init(group["params"]))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled; a transformation made of lambdas can be neither."""
        return {**super().__getstate__(), "tx": self.tx}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled or loaded state."""
        torch.optim.Optimizer.__setstate__(self, state)
        self._forms = {}

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Step every parameter that has a gradient; return what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            params = group["params"]
            grads = [p.grad for p in params]
            if not getattr(self.tx.update, "spares_updates", False):
                # A link reuses the buffers that it is given, and these are the user's.
                grads = [None if g is None else g.clone() for g in grads]
            state = self.state_of(index)
            _write(state, group)
            # torch's kernels take one algorithm, not what stands before it in a chain.
            one_pass = use("triton", "compiled", "foreach", "eager")
            with one_pass if self.fused and not torch.compiler.is_compiling() else nullcontext():
                _, after = step(self.tx, grads, state, params, inplace=True)
            self._keep(index, after)
            group.update(_hyperparams(after))
        return loss

    def state_of(self, index: int = 0) -> State:
        """The state of a group as the transformation has it: for a list of the group's parameters."""
        params = self.param_groups[index]["params"]
        form = self._forms.get(index)
        if form is None or form.params != len(params):
            form = self._forms[index] = Form.of(self.tx.init(params), len(params))
        return optree.tree_unflatten(form.spec, self.state[f"group {index}"].values())  # type: ignore[index]

    def _keep(self, index: int, state: State) -> None:
        leaves, spec = optree.tree_flatten(state, namespace=NAMESPACE)
        form = self._forms.get(index)
        if form is None or form.spec != spec:
            form = self._forms[index] = Form.of(state, len(self.param_groups[index]["params"]))
        self.state[f"group {index}"] = dict(zip(form.names, leaves))  # type: ignore[index]


class Form(NamedTuple):
    """How the state of a group is built; to find it out takes as long as a step of many small parameters."""

    params: int
    spec: optree.PyTreeSpec
    names: list[str]

    @classmethod
    def of(cls, state: State, params: int) -> Form:
        """The form of a state for so many parameters."""
        paths, _, spec = optree.tree_flatten_with_path(state, namespace=NAMESPACE)
        return cls(params, spec, [".".join(map(str, path)) for path in paths])


def _injected(state: State) -> Iterator[InjectHyperparamsState]:
    """Every part of a state that holds hyperparameters."""
    for node in optree.tree_leaves(
        state, is_leaf=lambda node: isinstance(node, InjectHyperparamsState), namespace=NAMESPACE
    ):
        if isinstance(node, InjectHyperparamsState):
            yield node
            yield from _injected(node.inner_state)


def _hyperparams(state: State) -> dict[str, Any]:
    """The hyperparameters in a state, as numbers."""
    found: dict[str, Any] = {}
    for node in _injected(state):
        found.update(optree.tree_map(Tensor.item, node.hyperparams))  # type: ignore[arg-type]
    return found


def _write(state: State, group: Group) -> None:
    """Put a group's hyperparameters into a state."""
    for node in _injected(state):
        for name, value in node.hyperparams.items():
            node.hyperparams[name] = optree.tree_map(
                lambda old, new: torch.as_tensor(new, dtype=old.dtype, device=old.device), value, group[name]
            )
