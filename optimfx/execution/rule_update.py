"""Makes a transformation of a rule and its hyperparameters."""

from __future__ import annotations

from optimfx.core import (
    Description,
    DType,
    GradientTransformation,
    Params,
    PyTree,
    Rule,
    State,
    check_state_dtype,
    to_python,
)
from optimfx.core.link import Link
from optimfx.core.lowering import Call, Lowered, only
from optimfx.core.types import Value
from optimfx.execution.init import init
from optimfx.execution.lowered import Lowering


class RuleUpdate(Link, Lowering):
    """The ``update`` of a rule with its hyperparameters; the engine decides how it runs."""

    def init(self, params: Params) -> State:
        return init(self, params)

    def lower(self, reference: PyTree, state: State | None) -> Lowered:
        return Lowered([Call(self, state)], only)

    def description(self) -> Description:
        return Description(self.name, {**self.hyper, "maximize": self.maximize, "state_dtype": self.state_dtype})


def transformation(
    name: str, rule: Rule, *, maximize: bool = False, state_dtype: DType | None = None, **hyper: Value
) -> GradientTransformation:
    """Make a :class:`GradientTransformation` over pytrees of a rule and its hyperparameters.

    Args:
        name: what messages and :func:`optimfx.explain` call it.
        rule: the mathematics.
        maximize: maximize the objective: the rule sees the negated gradients.
        state_dtype: the dtype of the state's tensors, except the count and carried scalars; ``None`` for what ``init``
            makes of the parameter. A complex tensor gets the complex dtype of that precision (at least complex32).
            Computation is in the widest of the dtypes of parameter, gradient and state, and at least float32.
        hyper: every hyperparameter that the rule's functions name.

    Raises:
        TypeError: a hyperparameter is missing, or ``state_dtype`` is not a floating-point dtype.
    """
    missing = {*rule.init_names, *rule.begin_names, *rule.scalar_names} - {
        *hyper,
        *rule.carries,
        *(["carry_dtype"] if rule.carries else []),
        *rule.given,
    }
    if missing:
        raise TypeError(f"{name}: missing hyperparameters {sorted(missing)}, which the functions of the rule take.")
    check_state_dtype(state_dtype)
    return RuleUpdate(name, rule, to_python(hyper), maximize, state_dtype).as_transformation()
