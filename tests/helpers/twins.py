"""The optimizers that clients are given: torch's classes, and ours as their twins."""

import copy

import pytest
from classes import CLASSES, DB, EVERY, assert_same_value, closeness

DENSE = [info for info in EVERY if not info.step_requires_closure and not info.only_supports_sparse_grads]
TWINS = [info for info in DENSE if info in DB]
ANY_SHAPE = [info for info in TWINS if "Muon" not in info.optim_cls.__name__]  # they step matrices alone


def client(name):
    """The library, or the reason to skip the tests of it."""
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[clients]'")


def by_class(infos):
    return pytest.mark.parametrize("info", infos, ids=lambda info: info.optim_cls.__name__)


def both(info):
    """Torch's class and ours."""
    return info.optim_cls, CLASSES[info.optim_cls]


def options(info):
    """One leaf after the other, as torch's classes do on a CPU: only so are ours bit-equal to them."""
    return {"foreach": False} if "foreach" in info.supported_impls else {}


def trained(module, optimizer):
    """Where training led to: parameters, and the optimizer with its groups and state."""
    return copy.deepcopy(([p.detach() for p in module.parameters()], optimizer.state_dict()))


def assert_same(theirs, ours, info=None):
    """Bit for bit, except for L-BFGS, which adds in another order."""
    assert_same_value(theirs, ours, **(closeness(info, {}) if info else dict(rtol=0, atol=0)))
