"""How a rule runs. Knows no algorithm: a rule comes in as data, and leaves as columns of tensors.

``run`` takes trees apart and puts them together; ``select`` chooses an executor for each group of leaves; an executor
(``triton``, ``aten``, ``compiled``, ``blocked``, ``foreach``, ``eager``, ``sparse``) runs the rule on them.
"""

from optimfx.execution.columns import ABSENT, check_state, writable
from optimfx.execution.explain import Explanation, Row, explain, explain_link, explain_rules
from optimfx.execution.hyper import is_constant, resolve, switch
from optimfx.execution.init import check, check_link, init
from optimfx.execution.run import run
from optimfx.execution.select import EXECUTORS, has_kernels, use
from optimfx.execution.storage import kept_as
from optimfx.execution.triton.spelling import numbered

__all__ = [
    "ABSENT",
    "EXECUTORS",
    "Explanation",
    "Row",
    "check",
    "check_link",
    "check_state",
    "explain",
    "explain_link",
    "explain_rules",
    "has_kernels",
    "init",
    "is_constant",
    "kept_as",
    "numbered",
    "resolve",
    "run",
    "switch",
    "use",
    "writable",
]
