"""What everything else rests on: the types, and what transformations and rules are. It imports nothing else of ours."""

from optimfx.core.reprs import state_class
from optimfx.core.rule import Locality, Rule
from optimfx.core.transformation import (
    EmptyState,
    GradientTransformation,
    Outline,
    Row,
    Stepper,
    StepState,
    check_transformation,
)
from optimfx.core.types import BFLOAT16, FLOAT32, Array, DType, Hyper, Params, PyTree, Scalar, Schedule, State, Updates
from optimfx.core.validation import (
    FROM_ONE,
    NON_NEGATIVE,
    NON_POSITIVE,
    REAL,
    UNIT,
    Interval,
    check_betas,
    check_count,
    check_hyper,
    check_state_dtype,
    check_tuple,
    to_python,
)

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "FROM_ONE",
    "NON_NEGATIVE",
    "NON_POSITIVE",
    "REAL",
    "UNIT",
    "Array",
    "DType",
    "EmptyState",
    "GradientTransformation",
    "Hyper",
    "Interval",
    "Locality",
    "Outline",
    "Params",
    "PyTree",
    "Row",
    "Rule",
    "Scalar",
    "Schedule",
    "State",
    "StepState",
    "Stepper",
    "Updates",
    "check_betas",
    "check_count",
    "check_hyper",
    "check_state_dtype",
    "check_transformation",
    "check_tuple",
    "state_class",
    "to_python",
]
