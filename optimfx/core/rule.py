"""The type of a rule: an algorithm's mathematics, as data."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor

from optimfx.core.reprs import name_of, state_class
from optimfx.core.types import Array, Scalar, Value


def _no_slots(param: Tensor) -> tuple[()]:
    return ()


def _nothing_carried() -> tuple[()]:
    return ()


def _nothing_measured(param: Tensor, grad: Tensor, *slots: Tensor) -> tuple[()]:
    return ()


class Locality(Enum):
    """The part of its tensor on which one element of a rule's result depends."""

    ELEMENT = "the element alone"
    """Leaves may be cut, joined and flattened."""
    POSITION = "the element, and where it stands"
    """Leaves may be flattened, but not cut or joined."""
    NORM = "the element, and 2-norms of the whole tensor"
    """Those that the rule asks for with :func:`ops.norm`: with these measured first, it has a kernel."""
    MATRIX = "the matrix of the last two dimensions"
    """A stack of matrices, of shape (..., rows, columns), steps as each of them does."""
    TENSOR = "the whole tensor"


@dataclass(frozen=True, eq=False)
class Rule:
    """An algorithm's mathematics, free of trees, devices, dtypes and modes of execution.

    Plain functions, whose parameters are found by name among the hyperparameters of :func:`transformation`:

    ``init(param, **hyper)``
        The state slots for one parameter, as a tuple; ``None`` for a slot that these hyperparameters do not need.
    ``scalars(step, **hyper)``
        What depends on the step and the hyperparameters only: step sizes, bias corrections. Runs once per step, on
        Python numbers or on 0-d tensors alike; ``step`` is 1 at the first update. It is given what the rule carries,
        and what is measured of all leaves, beside the hyperparameters. Returns a NamedTuple, in which what is neither a
        number nor a tensor is static: it selects a branch of ``leaf``.
    ``measure(param, grad, *slots, **hyper)``
        What of one parameter, before its step, is added up over all of them: a tuple of 0-d tensors, which ``scalars``
        takes, added up, by the names in ``totals``.
    ``begin(**hyper)``
        The values with which the carried scalars begin, as a tuple; they are kept in float64.
    ``unsupported_reason(param)``
        Why the algorithm cannot step this leaf, in words; ``None`` for a leaf that it can.
    ``leaf(base, param, grad, *slots, scalars)``
        One step of one parameter: ``(result, *slots)``. The result is ``base`` plus the increment; ``base`` is the
        parameter, or ``None`` when the increment itself is wanted. Only operators and words of :mod:`optimfx.ops`.

    Around them the executor applies ``maximize``, complex numbers (as pairs of reals), dtypes, grouping, and the
    skipping of ``None``.

    Attributes:
        leaf, scalars, init, begin, unsupported_reason: the functions above.
        state: the NamedTuple of the whole state: ``step``, then what is carried, then the slots as ``leaf`` takes them.
            It is given a ``__repr__`` of dtypes and shapes, unless it has one of its own. ``None`` for a rule that
            keeps nothing: then the state is a step count if a hyperparameter is a schedule, and else empty.
        reads_param: whether ``leaf`` reads ``param``, given its scalars.
        locality: what of its tensor one element of the result depends on.
        carries: the scalars that go from step to step: fields of the state, parameters of ``scalars`` and fields of
            what it returns, all by these names. ``scalars`` may also take ``carry_dtype``, by default ``None``: the
            dtype to which they are rounded, where they are kept in less than float64.
        needs_global_norm: whether ``scalars`` takes the ``global_norm``: the 2-norm of all gradients.
        totals: names of the sums over all parameters that ``scalars`` takes.
        extra: keyword arguments of ``update`` that ``scalars`` takes, such as the ``value`` of the loss.
        needs_param_dtype: whether the dtype of the parameter, or of its parts if it is complex, is to be filled in as
            the field ``param_dtype`` of the scalars.
        sparse: whether, given its scalars, an element without gradient keeps its value and slots, so that a sparse
            gradient steps only the elements that it has.
        aten: the name of torch's own kernels that do the same, if there are any.
        elementwise: whether each element is treated by itself, so that leaves may be flattened.
        given: what ``scalars`` takes besides hyperparameters and carry: measured, or an argument of the update.
        measures: whether all leaves are measured before one of them is stepped.

    Raises:
        TypeError: the functions and the state do not go together.
    """

    leaf: Callable[..., tuple[Array, ...]]
    scalars: Callable[..., Value]
    init: Callable[..., tuple[Tensor | None, ...]] = _no_slots
    state: type[Any] | None = None
    reads_param: Callable[[Value], bool] = lambda scalars: False
    locality: Locality = Locality.ELEMENT
    carries: tuple[str, ...] = ()
    begin: Callable[..., tuple[Scalar, ...]] = _nothing_carried
    needs_global_norm: bool = False
    measure: Callable[..., tuple[Tensor, ...]] = _nothing_measured
    totals: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    needs_param_dtype: bool = False
    unsupported_reason: Callable[[Tensor], str | None] = lambda param: None
    sparse: Callable[[Value], bool] = lambda scalars: False
    aten: str | None = None
    init_names: tuple[str, ...] = field(init=False, repr=False)
    begin_names: tuple[str, ...] = field(init=False, repr=False)
    measure_names: tuple[str, ...] = field(init=False, repr=False)
    scalar_names: tuple[str, ...] = field(init=False, repr=False)
    slots: tuple[str, ...] = field(init=False, repr=False)
    elementwise: bool = field(init=False, repr=False)
    given: tuple[str, ...] = field(init=False, repr=False)
    measures: bool = field(init=False, repr=False)
    id: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", _register(self))
        if self.state:
            state_class(self.state)
        fields = self.state._fields[1:] if self.state else ()
        slots = tuple(fields[len(self.carries) :])
        derived = {
            "elementwise": self.locality in (Locality.ELEMENT, Locality.POSITION),
            "init_names": tuple(inspect.signature(self.init).parameters)[1:],
            "begin_names": tuple(inspect.signature(self.begin).parameters),
            "scalar_names": tuple(inspect.signature(self.scalars).parameters)[1:],
            "slots": slots,
            "given": (*(["global_norm"] if self.needs_global_norm else []), *self.totals, *self.extra),
            "measures": self.needs_global_norm or bool(self.totals),
            "measure_names": tuple(inspect.signature(self.measure).parameters)[2 + len(slots) :],
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        self._check_names(fields)

    def _check_names(self, fields: tuple[str, ...]) -> None:
        """Refuse functions that do not name the state, and what the rule says that it needs, as they are called."""
        mine = f"the rule of {self.leaf.__module__}"
        if fields[: len(self.carries)] != self.carries:
            raise TypeError(f"{mine} carries {self.carries}, which must be the fields of its state after step.")
        wanted = {*self.carries, *self.given}
        if not wanted <= {*self.scalar_names}:
            raise TypeError(f"the scalars of {mine} must take {sorted(wanted)}, which the rule says that it needs.")
        parameters = inspect.signature(self.leaf).parameters
        taken = tuple(parameters)[3:-1]
        named = all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters.values())
        if named and taken != self.slots:
            raise TypeError(f"the leaf of {mine} takes the slots {taken}, but those of its state are {self.slots}.")

    @property
    def has_kernel(self) -> bool:
        """Whether a kernel can be made of it, with norms measured before."""
        return self.locality not in (Locality.TENSOR, Locality.MATRIX)

    def __repr__(self) -> str:
        return f"Rule({self.leaf.__module__}.{name_of(self.leaf)})"

    def __deepcopy__(self, memo: dict[int, object]) -> Rule:
        return self

    def __reduce__(self) -> tuple[Callable[[str, str], Rule], tuple[str, str]]:
        """Pickle by reference, as functions are: a rule is where its module says."""
        for function in (self.scalars, self.leaf, self.init):
            module = function.__module__
            for name, value in vars(sys.modules[module]).items():
                if value is self:
                    return _variable_of, (module, name)
        raise pickle.PicklingError(
            f"{self!r} cannot be pickled, as no variable of its functions' module holds it; assign it to one there."
        )


_rules: WeakValueDictionary[int, Rule] = WeakValueDictionary()
_numbers = count()


def _register(rule: Rule) -> int:
    number = next(_numbers)
    _rules[number] = rule
    return number


def rule_of(number: int) -> Rule:
    """Look up a rule by its number, while it exists: graphs hold numbers, strings and tensors, and no rules."""
    return _rules[number]


def _variable_of(module: str, name: str) -> Rule:
    rule: Rule = getattr(importlib.import_module(module), name)
    return rule
