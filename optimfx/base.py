"""What a transformation is, what a rule is, and the step from one to the other."""

from __future__ import annotations

import importlib
import inspect
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from optimfx import execution
from optimfx.printed import call, name_of
from optimfx.states import state_class
from optimfx.tree import PyTree as PyTree

Params: TypeAlias = PyTree
"""A pytree of floating-point or complex tensors; ``None`` where there is no parameter."""
Updates: TypeAlias = PyTree
"""A pytree like the parameters: gradients, or what links made of them; ``None`` leaves that leaf alone."""
State: TypeAlias = PyTree
"""What a transformation remembers: NamedTuples of pytrees, made by ``init``."""
Scalar: TypeAlias = float | Tensor
"""A Python number or a 0-d tensor."""
Schedule: TypeAlias = Callable[[Scalar], Scalar]
"""A value for each step; the first update asks for step 0."""
Hyper: TypeAlias = float | Tensor | Schedule
"""A hyperparameter: a number, a 0-d tensor (``vmap`` and gradients reach it), or a schedule."""


DType: TypeAlias = torch.dtype
BFLOAT16 = torch.bfloat16
FLOAT32 = torch.float32


class TransformInit(Protocol):
    """Makes the state for these parameters."""

    def __call__(self, params: Params) -> State: ...


class TransformUpdate(Protocol):
    """Turns updates into updates; with ``inplace=True`` the buffers of ``updates`` and ``state`` are reused."""

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, State]: ...


class GradientTransformation(NamedTuple):
    """A pair of pure functions, ``init(params) -> state`` and ``update(updates, state, params) -> (updates, state)``.

    The updates that a complete optimizer returns are *added* to the parameters (:func:`optimfx.apply_updates`). An
    ``update`` of your own that takes ``params=None, *, inplace=False, **extra`` too can be a link of anything.

    >>> import optimfx as fx
    >>> fx.chain(fx.clip_by_global_norm(1.0), fx.sgd(lr=fx.schedules.linear(0.1), momentum=0.9))
    chain(clip_by_global_norm(max_norm=1), sgd(lr=linear, momentum=0.9))
    """

    init: TransformInit
    update: TransformUpdate

    def __repr__(self) -> str:
        if not hasattr(self.update, "outline"):
            return name_of(self.update)
        outline = self.update.outline()
        parts = [f"{label}: {part!r}" if label else repr(part) for label, part in outline.parts]
        return call(outline.name, outline.hyper, parts)


class Outline(NamedTuple):
    """What a transformation is made of, for a person to read."""

    name: str
    hyper: dict[str, Any]
    parts: Sequence[tuple[str, GradientTransformation]] = ()  # each with its label, if it has one


class Stepper:
    """The ``update`` of a transformation that knows its own parts, and so can do more than map updates.

    Subclasses define ``init`` and four methods:

    ``run(updates, state, params, *, stepping, inplace, **extra) -> (results, state)``
        The update; with ``stepping`` the results are the new parameters, computed without adding an increment where the
        formula allows, else they are updates.
    ``check(updates, state, params)``
        Raises what ``run`` would raise, so that a combinator can ask every part before one of them writes.
    ``explain(params) -> list[Row]``
        What :func:`optimfx.explain` shows.
    ``outline() -> Outline``
        What :func:`optimfx.describe` shows.

    Attributes:
        spares_updates: whether a step in place leaves the updates that it is given as they are.
    """

    spares_updates: bool = False

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, *, inplace: bool = False, **extra: Any
    ) -> tuple[Updates, State]:
        return self.run(updates, state, params, stepping=False, inplace=inplace, **extra)

    def init(self, params: Params) -> State:
        raise NotImplementedError

    def run(
        self, updates: Updates, state: State, params: Params | None, *, stepping: bool, inplace: bool, **extra: Any
    ) -> tuple[PyTree, State]:
        raise NotImplementedError

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        raise NotImplementedError

    def explain(self, params: Params) -> list[execution.Row]:
        raise NotImplementedError

    def outline(self) -> Outline:
        return Outline(type(self).__name__, {})

    def transformation(self) -> GradientTransformation:
        return GradientTransformation(self.init, self)


@state_class
class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


@state_class
class StepState(NamedTuple):
    """The state of a link that remembers nothing but how many steps it has taken."""

    step: PyTree  # shape=() per leaf: updates taken


def _no_slots(param: Tensor) -> tuple[()]:
    return ()


def _nothing_carried() -> tuple[()]:
    return ()


@dataclass(frozen=True, eq=False)
class Rule:
    """An algorithm's mathematics, free of trees, devices, dtypes and modes of execution.

    Three plain functions, whose parameters are found by name among the hyperparameters of :func:`transformation`:

    ``init(param, **hyper)``
        The state slots for one parameter, as a tuple; ``None`` for a slot that these hyperparameters do not need.
    ``scalars(step, **hyper)``
        What depends on the step and the hyperparameters only: step sizes, bias corrections. Runs once per step, on
        Python numbers or on 0-d tensors alike; ``step`` is 1 at the first update. A parameter ``global_norm`` gets the
        2-norm of all gradients; one named like a field of the state gets that scalar, *carried* from the last step.
        Returns a NamedTuple, in which what is neither a number nor a tensor is static: it selects a branch of ``leaf``.
        A field named like one of the state is what is carried on. A field ``param_dtype`` is filled in with the dtype
        of the parameter, or of its parts if it is complex.
    ``begin(**hyper)``
        The values with which the carried scalars begin, as a tuple; they are kept in float64.
    ``refusal(param)``
        Why the algorithm cannot step this leaf, in words; ``None`` for a leaf that it can.
    ``leaf(base, param, grad, *slots, scalars)``
        One step of one parameter: ``(result, *slots)``. The result is ``base`` plus the increment; ``base`` is the
        parameter, or ``None`` when the increment itself is wanted. Only operators and words of :mod:`optimfx.ops`.

    Around them the executor applies ``maximize``, complex numbers (as pairs of reals), dtypes, grouping, and the
    skipping of ``None``.

    Attributes:
        leaf, scalars, init, begin, refusal: the functions above.
        state: the NamedTuple of the whole state: ``step``, then what ``scalars`` carries, then the slots as ``leaf``
            takes them. It is given a ``__repr__`` of dtypes and shapes, unless it has one of its own. Without a state,
            the rule is stateless but for the step that a schedule needs.
        reads_param: whether ``leaf`` reads ``param``, given its scalars.
        sparse: whether, given its scalars, an element without gradient keeps its value and slots, so that a sparse
            gradient steps only the elements that it has.
        aten: the name of torch's own kernels that do the same, if there are any.
        elementwise: whether ``leaf`` treats each element by itself, so that leaves may be cut, joined and flattened.
        positional: whether an elementwise ``leaf`` depends on where in its tensor an element stands, so that leaves may
            be flattened, but not cut or joined.
        norms: whether ``leaf`` is elementwise but for the 2-norms of whole leaves that it asks for (:func:`ops.norm`):
            with these measured first, it has a kernel.
    """

    leaf: Callable[..., Any]
    scalars: Callable[..., Any]
    init: Callable[..., tuple[Tensor | None, ...]] = _no_slots
    state: type[Any] | None = None
    reads_param: Callable[[Any], bool] = lambda scalars: False
    elementwise: bool = True
    positional: bool = False
    norms: bool = False
    begin: Callable[..., tuple[Scalar, ...]] = _nothing_carried
    refusal: Callable[[Tensor], str | None] = lambda param: None
    sparse: Callable[[Any], bool] = lambda scalars: False
    aten: str | None = None
    init_names: tuple[str, ...] = field(init=False, repr=False)
    begin_names: tuple[str, ...] = field(init=False, repr=False)
    scalar_names: tuple[str, ...] = field(init=False, repr=False)
    carried: tuple[str, ...] = field(init=False, repr=False)
    slots: tuple[str, ...] = field(init=False, repr=False)
    number: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", execution.numbered(self))
        if self.state:
            state_class(self.state)
        fields = self.state._fields[1:] if self.state else ()
        scalar_names = tuple(inspect.signature(self.scalars).parameters)[1:]
        carried = tuple(name for name in fields if name in scalar_names)
        names = {
            "init_names": tuple(inspect.signature(self.init).parameters)[1:],
            "begin_names": tuple(inspect.signature(self.begin).parameters),
            "scalar_names": scalar_names,
            "carried": carried,
            "slots": tuple(fields[len(carried) :]),
        }
        for name, value in names.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Rule({self.leaf.__module__}.{name_of(self.leaf)})"

    def __deepcopy__(self, memo: Any) -> Rule:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by reference, as functions are: a rule is where its module says."""
        for function in (self.scalars, self.leaf, self.init):
            module = function.__module__
            for name, value in vars(sys.modules[module]).items():
                if value is self:
                    return _rule_of, (module, name)
        raise pickle.PicklingError(
            f"{self!r} cannot be pickled, as no variable of its functions' module holds it; assign it to one there."
        )

    @property
    def measures_norm(self) -> bool:
        """Whether the scalars depend on the norm of all gradients, so that all leaves must be there at once."""
        return "global_norm" in self.scalar_names


def _rule_of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, eq=False)
class RuleUpdate(Stepper):
    """The ``update`` of a rule with its hyperparameters; :mod:`optimfx.execution` decides how it runs.

    Attributes:
        counts: whether the state holds a step count: always beside slots, and where a schedule needs one.
        shares: how many fields of the state, from the first, hold what leaves share: the count and the carried scalars.
        state_type: the NamedTuple of the state.
        user_names: the arguments of the rule's ``scalars`` that the user gives.
        has_schedule: whether one of the hyperparameters is a function of the step.
        constants: their values, if these are the same at every step.
        signature: what a plan depends on, of the rule and its hyperparameters.
    """

    name: str
    rule: Rule
    hyper: dict[str, Any]
    maximize: bool
    state_dtype: torch.dtype | None
    counts: bool = field(init=False, repr=False)
    shares: int = field(init=False, repr=False)
    state_type: type[Any] = field(init=False, repr=False)
    user_names: list[str] = field(init=False, repr=False)
    has_schedule: bool = field(init=False, repr=False)
    constants: dict[str, Any] | None = field(init=False, repr=False)
    signature: tuple[Any, ...] = field(init=False, repr=False)
    spares_updates = True

    def init(self, params: Params) -> State:
        return execution.init(self, params)

    def run(
        self, updates: Updates, state: State, params: Params | None, *, stepping: bool, inplace: bool, **extra: Any
    ) -> tuple[PyTree, State]:
        results, (after,) = execution.run([self], updates, [state], params, stepping=stepping, inplace=inplace)
        return results, after

    def check(self, updates: Updates, state: State, params: Params | None) -> None:
        execution.check(self, updates, state, params)

    def explain(self, params: Params) -> list[execution.Row]:
        return execution.explain_rules([self], params)

    def outline(self) -> Outline:
        return Outline(self.name, {**self.hyper, "maximize": self.maximize, "state_dtype": self.state_dtype})

    def __post_init__(self) -> None:
        has_schedule = any(callable(h) for h in _flat(self.hyper.values()))
        counts = self.rule.state is not None or has_schedule
        names = [name for name in self.rule.scalar_names if name in self.hyper]
        constant = all(execution.is_constant(self.hyper[name]) for name in names)
        derived = {
            "counts": counts,
            "shares": 1 + len(self.rule.carried) if counts else 0,
            "state_type": self.rule.state or (StepState if counts else EmptyState),
            "user_names": names,
            "has_schedule": has_schedule,
            "constants": {name: execution.resolve(self.hyper[name], 0) for name in names} if constant else None,
            "signature": (self.rule, counts, *[execution.switch(self.hyper[name]) for name in self.rule.init_names]),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def transformation(
    name: str, rule: Rule, *, maximize: bool = False, state_dtype: DType | None = None, **hyper: Any
) -> GradientTransformation:
    """A rule and its hyperparameters as a :class:`GradientTransformation` over pytrees.

    Args:
        name: what messages and :func:`optimfx.explain` call it.
        rule: the mathematics.
        maximize: ascend: the rule sees the negated gradients.
        state_dtype: the dtype of the state's tensors, the count and carried scalars apart; ``None`` for what ``init``
            makes of the parameter. A complex tensor gets the complex dtype of that precision (at least complex32).
            Computation is in the widest of the dtypes of parameter, gradient and state, and at least float32.
        hyper: every hyperparameter that the rule's functions name.

    Raises:
        TypeError: a hyperparameter is missing, or ``state_dtype`` is not a floating-point dtype.
    """
    missing = {*rule.init_names, *rule.begin_names, *rule.scalar_names} - {*hyper, *rule.carried, "global_norm"}
    if missing:
        raise TypeError(f"{name}: the rule names the hyperparameters {sorted(missing)}, which were not given.")
    check_state_dtype(state_dtype)
    return RuleUpdate(name, rule, hyper, maximize, state_dtype).transformation()


def check_transformation(name: str, tx: Any) -> None:
    """Refuse what is no pair of ``init`` and ``update``.

    Raises:
        TypeError: a factory that was not called, say.
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        factory = f" Call it first, as in {tx.__name__}(...)." if inspect.isfunction(tx) else ""
        raise TypeError(f"{name} must be a GradientTransformation(init, update); got {tx!r:.200}.{factory}")


class Interval(NamedTuple):
    """The values that a hyperparameter may take: ``low <= x < high``, or ``<= high`` if closed."""

    low: float
    high: float
    closed: bool = False

    def __contains__(self, x: Any) -> bool:
        return bool(self.low <= x < self.high or (self.closed and x == self.high))

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


NON_NEGATIVE = Interval(0, math.inf)
NON_POSITIVE = Interval(-math.inf, 0, closed=True)
UNIT = Interval(0, 1)
FROM_ONE = Interval(1, math.inf)
REAL = Interval(-math.inf, math.inf)


def check_hyper(interval: Interval, **hyper: Any) -> None:
    """Refuse hyperparameters that are not scalars in the interval; tensors and schedules are taken at their word.

    Raises:
        TypeError: not a number, tensor or schedule (nor a tuple of them).
        ValueError: a number outside the interval, or a tensor that is not 0-d.
    """
    for name, value in hyper.items():
        if isinstance(value, (tuple, list)):
            check_hyper(interval, **{f"{name}[{i}]": item for i, item in enumerate(value)})
        elif isinstance(value, Tensor):
            if value.dim() != 0:
                raise ValueError(
                    f"{name} is a tensor of shape {tuple(value.shape)}; a tensor hyperparameter must be 0-d. For one "
                    f"value per model, map over it with torch.vmap."
                )
        elif isinstance(value, bool) or not (callable(value) or isinstance(value, (int, float))):
            params = (
                " Parameters go to init; fx.optim has the classes that take them." if hasattr(value, "__next__") else ""
            )
            raise TypeError(
                f"{name} must be a number, a 0-d tensor or a schedule (step -> value); got {value!r}.{params}"
            )
        elif not callable(value) and value not in interval:
            raise ValueError(f"{name} must be in {interval}; got {value!r}.")


def check_count(interval: Interval, **counts: Any) -> None:
    """Refuse anything but integers in the interval."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value not in interval:
            raise ValueError(f"{name} must be an integer in {interval}; got {value!r}.")


def check_state_dtype(state_dtype: Any) -> None:
    """Refuse anything but a floating-point dtype or ``None``."""
    if state_dtype is not None and not (isinstance(state_dtype, torch.dtype) and state_dtype.is_floating_point):
        raise TypeError(f"state_dtype must be a floating-point torch.dtype or None; got {state_dtype!r}.")


def check_betas(betas: Any, count: int = 2) -> None:
    """Refuse anything but so many decay rates in [0, 1)."""
    check_tuple("betas", betas, *(f"beta{i + 1}" for i in range(count)))
    check_hyper(UNIT, betas=tuple(betas))


def check_tuple(name: str, value: Any, *parts: str) -> None:
    """Refuse anything but a tuple with these parts."""
    if not isinstance(value, (tuple, list)) or len(value) != len(parts):
        raise TypeError(f"{name} must be ({', '.join(parts)}); got {value!r}.")


def _flat(values: Any) -> list[Any]:
    return [x for v in values for x in (_flat(v) if isinstance(v, (tuple, list)) else [v])]
