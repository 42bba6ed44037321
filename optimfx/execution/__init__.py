"""How a rule runs. Knows no algorithm: a rule comes in as data, and leaves as columns of tensors.

``engine`` takes trees apart, plans a step of their leaves, steps them and puts them together; ``dispatch`` chooses an
executor for each group of leaves; ``executors`` run the rule on them.
"""

from optimfx.execution.dispatch import EXECUTORS, has_kernels, use
from optimfx.execution.engine import run
from optimfx.execution.explanation import Explanation, explain, explain_link, explain_rules
from optimfx.execution.init import check, check_link, count_from_zero, init
from optimfx.execution.memory.dtypes import kept_as
from optimfx.execution.plan.columns import ABSENT, check_state, writable
from optimfx.execution.rule_update import RuleUpdate, transformation

__all__ = [
    "ABSENT",
    "EXECUTORS",
    "Explanation",
    "RuleUpdate",
    "check",
    "check_link",
    "check_state",
    "count_from_zero",
    "explain",
    "explain_link",
    "explain_rules",
    "has_kernels",
    "init",
    "kept_as",
    "run",
    "transformation",
    "use",
    "writable",
]
