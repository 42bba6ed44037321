"""Any transformation as an optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NoReturn

import optree
import torch
from torch import Tensor

from optimfx.combinators.inject import Inject
from optimfx.core import GradientTransformation, State, StructuredUpdate, check_transformation
from optimfx.core.tree import NAMESPACE
from optimfx.execution import run, use
from optimfx.execution.dispatch import FUSED_CHAIN
from optimfx.optim.adapter.hooks import with_hooks
from optimfx.optim.adapter.settings import Group
from optimfx.optim.adapter.state_layout import Rows, StateLayout, nodes_of
from optimfx.optim.optimizer import Closure, Optimizer


class TransformOptimizer(Optimizer):
    """A transformation as a :class:`torch.optim.Optimizer`: with groups, hooks, schedulers and checkpoints.

    Each group of parameters is one tree, a list, with a state of its own; a norm over all leaves is one over the group.
    The state begins at a group's first step. Its part for a parameter ``p`` is ``optimizer.state[p]``, by
    its path (``exp_avg``; in a chain ``1.exp_avg``), and what it holds for all together under each of them. Every step
    reads it and the groups, and writes it.

    Code that creates the state by taking a step with ``lr=0``, as ``torch.distributed.checkpoint`` does, can do so only
    if ``lr`` is injected. A ``ZeroRedundancyOptimizer`` hands what it is given from process to process: bind the
    transformation to the class, ``functools.partial(TransformOptimizer, tx=tx)``; and a group is then what a process
    has of it.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either.
        tx: the transformation. What it keeps under ``inject_hyperparams`` becomes keys of the groups, which a scheduler
            can drive and a group may override; a schedule's value is shown there.
        fused: compile what runs as one (see :func:`optimfx.explain`) where that is possible, as the classes do.

    Raises:
        ValueError, TypeError: as torch's optimizers raise for parameters, and at a group's first step the
            transformation for their kind. ``ValueError`` too for a group that does not say which value it has of a
            hyperparameter that is injected twice, with different ones, or that names one which is not injected.

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
        check_transformation("tx", tx)
        self.tx = tx
        self._forms: dict[tuple[int, int], StateLayout] = {}
        self.fused = fused
        super().__init__(params, {k: _number(v[0]) for k, v in _injected(tx).items() if len(v) == 1})

    def __repr__(self) -> str:
        name, *groups = super().__repr__().split("\n")
        return "\n".join([name, f"    tx: {self.tx!r}", *groups])

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled; a transformation made of lambdas can be neither."""
        return {**super().__getstate__(), "tx": self.tx, "fused": self.fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled or loaded state."""
        torch.optim.Optimizer.__setstate__(self, state)
        self._forms = {}

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, with hyperparameters of their own."""
        injected = _injected(self.tx)
        for name, values in injected.items():
            if len(values) > 1 and name not in param_group:
                numbers = [_number(value) for value in values]
                raise ValueError(
                    f"{name} is injected with different values, {', '.join(map(str, numbers))}, and a group has one: "
                    f"set it for each group, as in [{{'params': params, {name!r}: {numbers[0]}}}], or inject only "
                    f"the one that schedulers are to set."
                )
        for name in self._undriven:
            if name in param_group:
                self._refuse(name)
        super().add_param_group(param_group)

    @cached_property
    def _undriven(self) -> dict[str, tuple[str, Any]]:
        """The hyperparameters that no group changes: whose each is, and its value there."""
        injected = _injected(self.tx)
        found: dict[str, tuple[str, Any]] = {}
        for part, name, value in _fixed(self.tx):
            if name not in injected:
                found.setdefault(name, (part, value))
        return found

    def _refuse(self, name: str) -> NoReturn:
        part, _ = self._undriven[name]
        raise ValueError(
            f"a group sets {name!r}, but {part} does not inject its {name}. To let groups and schedulers set it, wrap "
            f"the factory: inject_hyperparams({part})(...)."
        )

    def state_dict(self) -> dict[str, Any]:
        """As torch's. No two entries share a tensor, so loading into one changes no other."""
        with self.register_state_dict_post_hook(_apart, prepend=True):
            return super().state_dict()

    @with_hooks
    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Step every parameter that has a gradient; return what the closure returned.

        The transformation gets the loss of the closure as ``value``, which some need.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        extra = {} if loss is None else {"value": loss}
        for group in self.param_groups:
            for name, (_, value) in self._undriven.items():
                if name in group and group[name] != value:  # a checkpoint of torch's class has the same value
                    self._refuse(name)
        for index, group in enumerate(self.param_groups):
            params = group["params"]
            grads = [p.grad for p in params]
            if all(grad is None for grad in grads):
                continue
            rows = self._rows(group)
            has_begun = all(rows)
            form, before = self._begun(index, rows)
            with use(*FUSED_CHAIN) if self.fused and not torch.compiler.is_compiling() else nullcontext():
                begun = optree.tree_unflatten(form.structure, before)
                _, state = run(self.tx, grads, begun, params, stepping=True, inplace=True, spare_updates=True, **extra)
            after, spec = nodes_of(state, len(params))
            if spec != form.structure or not form.holds(after):
                form = self._forms[index, len(params)] = StateLayout.from_state(state, len(params))
                before = [None] * len(after)
            form.write_back(before, after, rows, group)
            if not has_begun:
                self.state.update(zip(params, rows))
        return loss

    def state_of(self, index: int = 0) -> State:
        """Return the state of a group as the transformation has it: for a list of the group's parameters."""
        form, leaves = self._begun(index, self._rows(self.param_groups[index]))
        return optree.tree_unflatten(form.structure, leaves)

    def _finish_load(self, state_dict: dict[str, Any], keep_dtype: bool) -> None:
        """Undo torch's cast, which would store counts in bfloat16."""
        super()._finish_load(state_dict, keep_dtype=True)
        for index, group in enumerate(self.param_groups):
            rows = self._rows(group)
            if any(rows):
                form, new = self._new(index)
                form.fit(new, rows, keep_dtype=keep_dtype)
                form.begin(new, rows, group)
                self.state.update(zip(group["params"], rows))

    def _rows(self, group: Group) -> Rows:
        """Return what is kept under each parameter of a group, or is to be."""
        return [row or {} for row in map(self.state.get, group["params"])]

    def _begun(self, index: int, rows: Rows) -> tuple[StateLayout, list[Any]]:
        """Return the form and the leaves of a group's state; begin what is not there."""
        group = self.param_groups[index]
        try:
            form = self._forms[index, len(rows)]
            return form, form.read(rows, group)
        except KeyError:
            form, new = self._new(index)
            form.begin(new, rows, group)
            return form, form.read(rows, group)

    def _new(self, index: int) -> tuple[StateLayout, list[Any]]:
        """Return the form and the leaves of a new state of a group."""
        params = self.param_groups[index]["params"]
        state = self.tx.init(params)
        form = self._forms[index, len(params)] = StateLayout.from_state(state, len(params))
        return form, optree.tree_leaves(state, namespace=NAMESPACE)


def _apart(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Clone tensors that several parameters share."""
    state = state_dict["state"]
    times = Counter(id(x) for key, row in state.items() if isinstance(key, int) for x in row.values())
    state_dict["state"] = {
        key: {name: x.clone() if times[id(x)] > 1 and isinstance(x, Tensor) else x for name, x in row.items()}
        if isinstance(key, int)
        else row
        for key, row in state.items()
    }


def _injected(tx: GradientTransformation) -> dict[str, list[Any]]:
    """Collect the hyperparameters that a transformation or a part of it injects, with each of their values."""
    found: dict[str, list[Any]] = {}
    for update in _injections(tx):
        for name, value in update.injected.items():
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return found


def _injections(tx: GradientTransformation) -> Iterator[Inject]:
    """Find the parts of a transformation that inject."""
    if isinstance(tx.update, Inject):
        yield tx.update
    if isinstance(tx.update, StructuredUpdate):
        for _, part in tx.update.description().parts:
            yield from _injections(part)


def _fixed(tx: GradientTransformation) -> Iterator[tuple[str, str, Any]]:
    """Collect the hyperparameters that a transformation and its parts have: the part's name, theirs, and the value."""
    if isinstance(tx.update, StructuredUpdate):
        description = tx.update.description()
        yield from ((description.name, name, value) for name, value in description.hyper.items())
        for _, part in description.parts:
            yield from _fixed(part)


def _number(value: Any) -> Any:
    """Return what a group shows of a hyperparameter before the first step."""
    value = value(0) if callable(value) else value
    return tuple(map(_number, value)) if isinstance(value, (tuple, list)) else float(value)
