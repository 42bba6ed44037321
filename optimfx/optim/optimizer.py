"""The stateful side: a torch.optim.Optimizer whose every number comes from a pure algorithm."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from optimfx.core import GradientTransformation, tracing
from optimfx.execution import RuleUpdate
from optimfx.execution.dispatch import FOREACH, FUSED, LOOP, requested_executors
from optimfx.execution.executors.triton.runtime import build
from optimfx.execution.step import probe_step
from optimfx.optim.adapter import group_step
from optimfx.optim.adapter.amp import Scaling
from optimfx.optim.adapter.checkpoint import Mismatch, match_by_name, restore_dtypes
from optimfx.optim.adapter.constructor import constructor
from optimfx.optim.adapter.group_step import Batch
from optimfx.optim.adapter.hooks import with_hooks
from optimfx.optim.adapter.scalar_columns import ScalarColumn
from optimfx.optim.adapter.settings import Algorithm, Group, Settings, release
from optimfx.optim.adapter.validation import check_fused

Closure: TypeAlias = Callable[[], Any]


class Optimizer(torch.optim.Optimizer):
    """Base of the classes: torch's optimizer in everything but the step.

    Groups, hooks, ``state_dict`` and pickling are those of :class:`torch.optim.Optimizer`. ``optimizer.state[p]`` holds
    torch's keys and is the truth: each step reads it and the groups, and writes it.

    An algorithm's arguments are numbers, or tensors of one element where torch takes them, for all groups or in each.
    The flags say how it runs, and change no more than the last digits:

    - ``foreach``: ``True`` takes lists of parameters at once, ``False`` one after the other with exactly the numbers of
      torch's loop, ``None`` what is fastest.
    - ``fused``: compile the step into one pass over memory, or call torch's kernel. Not with ``foreach`` or
      ``differentiable``.
    - ``capturable``: keep step counts where the parameters are, so that a CUDA graph can capture the step.
    - ``differentiable``: leave the step on autograd's tape.

    ``maximize=True``, where there is such an argument, maximizes the objective.

    A class of torch that is inherited after this one gives the constructor, with its signature, defaults and checks,
    and reads old checkpoints.

    Attributes:
        factory: the pure algorithm; its arguments are found in the groups by name.
        algorithm: the factory with its arguments, made of it.
        counts: whether torch keeps a ``step`` in the state of this algorithm.
        numeric_step: whether that is a Python number.
        old_checkpoint_defaults: what checkpoints may lack, with its value: flags that are off, and what a class adds.
        sparse_error: what a sparse gradient is refused with, where the algorithm cannot take it.
        complex_error: what a complex parameter is refused with, if it is.
        fused: ``fused`` of a class whose twin in torch has no such flag; groups and checkpoints are as torch's.
    """

    factory: ClassVar[Callable[..., GradientTransformation]]
    algorithm: ClassVar[Algorithm]
    counts: ClassVar[bool] = True
    numeric_step: ClassVar[bool] = False
    old_checkpoint_defaults: ClassVar[dict[str, Any]] = {}
    sparse_error: ClassVar[str] = "{name} does not support sparse gradients"
    complex_error: ClassVar[str] = ""
    fused: bool | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take over torch's constructor, and look into it and the factory once."""
        super().__init_subclass__(**kwargs)
        twin: Any = cls.__bases__[-1]
        if not issubclass(twin, Optimizer):
            cls._inherit(twin)
        if "factory" in vars(cls):
            cls.algorithm = Algorithm.of(cls.factory)
            defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
            off = {name: value for name, value in defaults.items() if value is None or value is False}
            cls.old_checkpoint_defaults = {**off, **cls.old_checkpoint_defaults}

    @classmethod
    def _inherit(cls, twin: Any) -> None:
        """Take the constructor of torch's class."""
        cls.__init__ = constructor(twin.__init__, inspect.signature(twin.__init__))  # type: ignore[method-assign]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickled or loaded state; what an older version did not have yet gets its default.

        Raises:
            KeyError: a parameter's state is another algorithm's.
        """
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.old_checkpoint_defaults.items():
                if name in self.defaults:
                    group.setdefault(name, value)
        self._prepare()

    def __setattr__(self, name: str, value: Any) -> None:
        """Prepare groups that replace others, which guards of a compiled step cannot distinguish."""
        super().__setattr__(name, value)
        if name == "param_groups" and "_updates" in vars(self):
            self._prepare()

    def load_state_dict(  # type: ignore[override]
        self,
        state_dict: dict[str, Any],
        *,
        match: str = "order",
        strict: bool = True,
        keep_dtype: bool = False,
    ) -> Mismatch:
        """Take over a checkpoint; if that fails, the optimizer is as it was.

        Args:
            state_dict: what ``state_dict()`` of this class or of torch's returned.
            match: ``"order"``, as torch: the groups and their parameters correspond in order. ``"names"``: each
                parameter finds its state by its name, wherever it is in the checkpoint; a group takes the
                hyperparameters of the one in which its first known parameter was.
            strict: with ``match="names"``, refuse names that are only on one side. If not, a parameter that the
                checkpoint does not have starts fresh.
            keep_dtype: keep the dtypes of the checkpoint's state, where torch casts to those of the parameters.

        Returns:
            The names that are only on one side; none with ``match="order"``.

        Raises:
            ValueError: groups, or with ``strict`` names, do not correspond; or there are no names to match.
            KeyError: a parameter's state is another algorithm's. (What else is missing, the next step raises.)
        """
        before = self.state, self.param_groups
        found = Mismatch((), ())
        try:
            if match == "names":
                state_dict, found = match_by_name(state_dict, self.param_groups, strict)
            elif match != "order":
                raise ValueError(f"match must be 'order' or 'names'; got {match!r}.")
            taken: dict[str, Any] = {}
            # Registered last, so it sees the checkpoint as user hooks changed it.
            with self.register_load_state_dict_pre_hook(lambda _, given: taken.update(given)):
                super().load_state_dict(state_dict)
            self._finish_load(taken, keep_dtype)
        except BaseException:
            self.state, self.param_groups = before
            raise
        return found

    def _finish_load(self, state_dict: dict[str, Any], keep_dtype: bool) -> None:
        """Make of what torch has loaded, and cast, what steps would have left."""
        if keep_dtype:
            restore_dtypes(self.state, self.param_groups, state_dict)
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"] if p in self.state]
            for state, moved in zip(states, group_step.pack_states(states)):
                state.update(moved)

    def _begin_early(self) -> None:
        """Begin by the rule, with each group's own values, the state that torch's constructor has begun."""
        if not self.state:
            return
        self.state.clear()
        with torch.no_grad():
            for index, group in enumerate(self.param_groups):
                params = group["params"]
                self._begin_states(dict.fromkeys(range(len(params)), self._settings_of(index, group)), params)

    @with_hooks
    def step(self, closure: Closure | None = None) -> Any:
        """Step every parameter that has a gradient.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if "capturable" in self.defaults:
            self._accelerator_graph_capture_health_check()
        if Scaling.from_optimizer(self).skips_step:
            return loss
        before = torch.is_grad_enabled()
        # A context manager would cost as much as the whole planned step.
        torch._C._set_grad_enabled(bool(self.defaults.get("differentiable", False)))
        try:
            # Read all gradients before any state: Dynamo retraces for every new gradient of a parameter that it first
            # meets as a key of the state.
            stepped = [(index, group, *_select_with_gradients(group)) for index, group in self._groups()]
            in_trace = tracing.active()
            groups = [
                (self._settings_of(i, group, in_trace), params, grads) for i, group, params, grads in stepped if params
            ]
            for number, batch in enumerate(self._batches(groups, in_trace)):
                self._step_batch(number, batch, in_trace)
        finally:
            torch._C._set_grad_enabled(before)
        return loss

    def _groups(self) -> list[tuple[int, Group]]:
        """Read the groups in a way in which Dynamo does not take every number in them for a constant."""
        return list(enumerate(self.__dict__["param_groups"]))

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, with hyperparameters of their own."""
        super().add_param_group(param_group)
        self._prepare(len(self.param_groups) - 1)

    def _prepare(self, start: int = 0) -> None:
        """Make the updates of groups before anything is compiled; what they refuse, a step refuses, as in torch."""
        if not start:
            if "_updates" not in vars(self):
                self._updates: dict[int, Settings] = {}
                weakref.finalize(self, release, self._updates).atexit = False
            self._updates.clear()
            self._plans: dict[int, group_step.BatchPlan] = {}
            # A GradScaler reads this, and leaves unscaling to the step.
            self._step_supports_amp_scaling = bool(self.defaults.get("fused"))
        if hasattr(type(self), "algorithm"):
            for index, group in enumerate(self.param_groups[start:], start):
                with suppress(AttributeError, KeyError, TypeError, ValueError):
                    self._settings_of(index, group)

    def _batches(self, groups: list[tuple[Settings, list[Tensor], list[Tensor]]], in_trace: bool) -> Iterator[Batch]:
        """Join the groups that differ in no flag; counts that are on several devices make no vector."""
        together: dict[Any, list[tuple[Settings, list[Tensor], list[Tensor]]]] = {}
        alone = len(groups) == 1 or in_trace
        for settings, params, grads in groups:
            grads = self._prepare_grads(settings.group, grads)
            if settings.repeats or (settings.on_device and len({p.device for p in params}) > 1):
                for turn in group_step.split_repeats(params, grads):
                    yield Batch([settings], [len(turn[0])], *turn)
            elif alone or settings.on_device or settings.differentiable:
                yield Batch([settings], [len(params)], params, grads)
            else:
                key = (settings.flags, tuple(self._state_keys(settings, in_trace)))
                together.setdefault(key, []).append((settings, params, grads))
        for batch in together.values():
            owners, params_of, grads_of = zip(*batch)
            all_params, all_grads = (list(chain.from_iterable(each)) for each in (params_of, grads_of))
            yield Batch(owners, list(map(len, params_of)), all_params, all_grads)

    def _step_batch(self, number: int, batch: Batch, in_trace: bool) -> None:
        settings, params, grads = batch.owners[0], batch.params, batch.grads
        scaling = Scaling.from_optimizer(self).to_device_of(params[0])
        names = self._state_keys(settings, in_trace)
        states: list[dict[str, Any]] = list(map(self.state.__getitem__, params)) if names else [{}] * len(params)
        columns = group_step.collect_columns(settings.update, states, names)
        executors = () if in_trace else self._executors(settings)
        tensors = [*params, *grads, *chain.from_iterable(columns.values())]
        plan = self._plans.get(number)
        fresh: set[int] = set()
        if in_trace or plan is None or not plan.fits(batch, executors, tensors):
            for owner, begin, end in batch.ranges():
                self._check(owner, params[begin:end], grads[begin:end])
            fresh = group_step.uninitialized(columns, names)
            if fresh:
                owner_of = {i: owner for owner, begin, end in batch.ranges() for i in range(begin, end)}
                self._begin_states({i: owner_of[i] for i in sorted(fresh)}, params)
                columns = group_step.collect_columns(settings.update, states, names)
                tensors = [*params, *grads, *chain.from_iterable(columns.values())]
            group_step.check_shapes(settings.update, params, grads, columns)
            seen = None if in_trace or settings.differentiable else tensors
            plan = group_step.BatchPlan(batch, executors, seen, traced=in_trace)
            if plan.guard is not None:
                self._plans[number] = plan
        if not self.counts:
            # Without a count, a newly created slot marks the first step.
            before = [0 if i in fresh else 1 for i in range(len(states))] if fresh else [1] * len(states)
            group_step.step(plan, batch, columns, before, scaling=scaling)
            return
        together = in_trace and build.serves(params[0].device)
        counts = ScalarColumn(columns["step"], as_vector=together, line=plan.lines.get("step"))
        if not self.numeric_step:
            counts.check("state_steps")
        vector = counts.vector
        step = group_step.step(plan, batch, columns, counts.read() if vector is None else vector, scaling=scaling)
        self._advance_counts(counts, step, states, scaling)

    def _state_keys(self, settings: Settings, in_trace: bool) -> list[str]:
        """Return what is kept for every parameter of a group."""
        if in_trace and torch.compiler.is_compiling():
            return group_step.state_keys(settings.update, counts=self.counts)
        if settings.kept is None:
            settings.kept = group_step.state_keys(settings.update, counts=self.counts)
        return settings.kept

    def _prepare_grads(self, group: Group, grads: list[Tensor]) -> list[Tensor]:
        """Convert the gradients to the form in which the algorithm takes them."""
        return grads

    def _executors(self, settings: Settings) -> tuple[str, ...] | None:
        """Return what a group's flags ask for, or the context does."""
        if not settings.update.rule.elementwise:
            return requested_executors()
        if settings.fused or self.fused:
            return FUSED
        if settings.foreach is None:
            return requested_executors()
        return FOREACH if settings.foreach else LOOP

    def _advance_counts(self, counts: ScalarColumn, step: Any, states: list[dict[str, Any]], scaling: Scaling) -> None:
        """Count the step; its number is given where all have the same."""
        if step is None or isinstance(step, Tensor):
            counts.advance(scaling.step_increment)
        else:
            counts.write(step)

    def _begin_states(self, places: dict[int, Settings], params: Sequence[Tensor]) -> None:
        """Begin the states at these places, as their groups say; of a term that was switched on later, its slots.

        Raises:
            KeyError: a state that has begun lacks what the optimizer was made to keep: it is another algorithm's.
        """
        for state in filter(None, [self.state.get(params[i]) for i in places] if self.counts else ()):
            missing = [
                name for name in group_step.state_keys(self._default_update(), counts=True) if state.get(name) is None
            ]
            if missing:
                raise KeyError(missing[0])
        begun = [self._begin(settings, params[i]) for i, settings in places.items()]
        for i, new in zip(places, begun if tracing.active() else group_step.pack_states(begun)):
            state = self.state[params[i]]
            state.update({name: value for name, value in new.items() if state.get(name) is None})

    def _begin(self, settings: Settings, param: Tensor) -> dict[str, Any]:
        return group_step.begin_state(settings.update, param, counts=self.counts, on_device=settings.on_device)

    def _check(self, settings: Settings, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Refuse, in torch's words, parameters and gradients that the algorithm cannot take."""
        if self.complex_error and any(p.is_complex() for p in params):
            raise RuntimeError(self.complex_error)
        for p in params:
            if reason := settings.update.rule.unsupported_reason(p):
                raise ValueError(f"{type(self).__name__}: a parameter has shape {tuple(p.shape)}, but {reason}.")
        if settings.fused or self.fused:
            for p in {(p.device, p.dtype): p for p in params}.values():
                check_fused(p)
        if settings.foreach and settings.differentiable:
            raise AssertionError("_foreach ops don't support autograd")
        if True in {g.is_sparse for g in grads} and not settings.update.rule.sparse(
            probe_step(settings.update).scalars
        ):
            raise RuntimeError(self.sparse_error.format(name=type(self).__name__))

    def _settings_of(self, index: int, group: Group, in_trace: bool = False) -> Settings:
        """Read what the group says, again when it is another group.

        Raises:
            KeyError: the group lacks a hyperparameter.
        """
        compiling = in_trace and torch.compiler.is_compiling()
        known = self._updates.get(index)
        if known is None or known.group is not group or (compiling and known.flags != known.flags_of(group)):
            known = Settings(self.algorithm, self.algorithm.present_in(self.defaults), group)
            if not compiling:  # Settings made there have the learning rate baked in
                self._updates[index] = known
        if not compiling:
            known.read()
        return known

    def _default_update(self) -> RuleUpdate:
        """Return the update with the hyperparameters that the optimizer was made with."""
        return self.algorithm.bind(self.defaults).update  # type: ignore[return-value]


def _select_with_gradients(group: Group) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters of a group that have gradients, and these."""
    params = group["params"]
    grads = [p.grad for p in params]
    if type(None) in set(map(type, grads)):
        params = [p for p, grad in zip(params, grads) if grad is not None]
        grads = [grad for grad in grads if grad is not None]
    return params, grads
