"""The types to annotate with."""

from optimfx.core.transformation import GradientTransformation, TransformInit, TransformUpdate
from optimfx.core.types import Hyper, Params, PyTree, Scalar, Schedule, State, StatefulSchedule, Updates
from optimfx.execution.dispatch import ExecutorName

__all__ = [
    "ExecutorName",
    "GradientTransformation",
    "Hyper",
    "Params",
    "PyTree",
    "Scalar",
    "Schedule",
    "State",
    "StatefulSchedule",
    "TransformInit",
    "TransformUpdate",
    "Updates",
]
