"""The classes that torch does not have step as their pure algorithms do."""

import copy
import inspect
import pickle

import pytest
import torch
from catalogue import ALGORITHMS, cases
from trees import assert_equal

import optimfx as fx
from optimfx.optim.classes.extra import FromFactory

CLASSES = {cls.factory.__name__: cls for cls in FromFactory.__subclasses__()}
BEYOND = [row for row in ALGORITHMS if row.torch_class is None and not row.rule.given]
"""Algorithms that measure all parameters, or need the loss, under ``TransformOptimizer``: groups step alone."""


def test_every_algorithm_has_a_class():
    assert set(CLASSES) == {row.name for row in BEYOND}
    assert all(getattr(fx.optim, cls.__name__) is cls for cls in CLASSES.values())


@cases(BEYOND)
@pytest.mark.parametrize("foreach", [False, None])
def test_steps_as_the_pure_algorithm(row, options, foreach):
    params = [
        torch.nn.Parameter(torch.randn(shape)) for shape in ([(4, 3), (1, 5)] if row.dims else [(4, 3), (3,), ()])
    ]
    optimizer = CLASSES[row.name](params, **options, foreach=foreach)
    tx, pure = row(**options), [p.detach().clone() for p in params]
    state = tx.init(pure)
    for _ in range(4):
        grads = [torch.randn_like(p) for p in pure]
        for p, g in zip(params, grads):
            p.grad = g.clone()
        optimizer.step()
        pure, state = fx.step(tx, grads, state, pure)
        assert_equal([p.detach() for p in params], pure)
    for name, column in state._asdict().items():
        if column != ():
            assert_equal([optimizer.state[p][name] for p in params], column)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_signature_groups_and_copies(cls):
    """The algorithm's arguments by place and by name, then torch's flags."""
    pure = [name for name in inspect.signature(cls.factory).parameters if name != "state_dtype"]
    flags = ["foreach", "capturable", "differentiable"]
    if cls.factory().update.rule.elementwise:
        flags.append("fused")
    assert list(inspect.signature(cls).parameters) == ["params", *pure, *flags]
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = cls([p], 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        twin.load_state_dict(optimizer.state_dict())
        assert repr(twin) == repr(optimizer)
    with pytest.raises(ValueError, match=r"lr must be in \[0, inf\); got -1"):
        cls([p], lr=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentom'"):
        cls([p], momentom=1)
