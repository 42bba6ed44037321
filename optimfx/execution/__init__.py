"""How a rule runs. Knows no algorithm: a rule comes in as data, and leaves as columns of tensors.

``engine`` takes trees apart, plans a step of their leaves, steps them and puts them together; ``dispatch`` chooses an
executor for each group of leaves; ``executors`` run the rule on them.
"""

from optimfx.execution.dispatch import EXECUTORS, use
from optimfx.execution.explanation import Explanation
from optimfx.execution.init import count_from_zero, init
from optimfx.execution.lowered import Lowering, add_updates, check, explain, lower, mask_tree, run
from optimfx.execution.memory.dtypes import cast_state
from optimfx.execution.plan.columns import ABSENT, check_state
from optimfx.execution.rule_update import RuleUpdate, transformation

__all__ = [
    "ABSENT",
    "EXECUTORS",
    "Explanation",
    "Lowering",
    "RuleUpdate",
    "add_updates",
    "cast_state",
    "check",
    "check_state",
    "count_from_zero",
    "explain",
    "init",
    "lower",
    "mask_tree",
    "run",
    "transformation",
    "use",
]
