"""The classes of optimfx.optim beside torch's: tables, pairs, and what it means that two are the same."""

import copy

import pytest
import torch
from catalogue import ALGORITHMS
from torch.testing._internal.common_optimizers import OptimizerInfo, OptimizerInput, optim_db

import optimfx.optim as optim
from optimfx.optim.classes.extra import FromFactory


def row_of(cls):
    return next(row for row in ALGORITHMS if row.name == cls.factory.__name__)


def beyond(cls):
    """A class that torch does not have, as an entry of torch's table: it takes the place of torch's class too."""
    row = row_of(cls)
    inputs = [OptimizerInput(None, kwargs, str(i)) for i, kwargs in enumerate((row.options[0], row.richest))]
    # By default it steps matrices in bfloat16: the pure algorithm is differentiated.
    impls = {"supported_impls": ("foreach",)} if row.dims else {}
    return OptimizerInfo(
        cls,
        optim_inputs_func=lambda device: inputs,
        has_capturable_arg=True,
        supports_complex="complex" not in row.reasons,
        **impls,
    )


CLASSES = {info.optim_cls: getattr(optim, info.optim_cls.__name__, None) for info in optim_db}


DB = [info for info in optim_db if CLASSES[info.optim_cls] is not None]


CLASSES |= {cls: cls for cls in FromFactory.__subclasses__()}


EVERY = DB + [beyond(cls) for cls in FromFactory.__subclasses__()]


OF_MATRICES = ["Muon", *[cls.__name__ for cls in FromFactory.__subclasses__() if row_of(cls).dims]]


STEPS = 10


def by_class(infos=EVERY):
    return pytest.mark.parametrize("info", infos, ids=lambda info: info.optim_cls.__name__)


def inputs(extra=lambda info: [{}]):
    """Every option set of torch's table, with further flags."""
    return [
        pytest.param(
            info, {**case.kwargs, **more}, id=f"{info.optim_cls.__name__}-{case.desc}-{more}".replace(" ", "_")
        )
        for info in DB
        for case in info.optim_inputs_func(device="cpu")
        for more in extra(info)
    ]


def flags(info):
    """The ways to run that both have."""
    return [{flag: value} for flag in ("foreach",) for value in (False, True) if flag in info.supported_impls] or [{}]


def parameters(info, dtype=torch.float64):
    shapes = [(4, 3), (1, 5)] if info.optim_cls.__name__ in OF_MATRICES else [(4, 3), (3,), (), (2, 1, 2)]
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def some_params(info, dtype=torch.float64):
    """Those that can be given gradients of any value: a number has no sparse form."""
    return parameters(info, dtype)[:1] if info.only_supports_sparse_grads else parameters(info, dtype)


def richest(info):
    """The longest option set of the table that a CPU takes."""
    cases = [case.kwargs for case in info.optim_inputs_func(device="cpu") if "capturable" not in case.kwargs]
    return max(cases, key=len)


def pair(info, params, **options):
    """torch's optimizer and ours on copies of the parameters."""
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in params]
    ours = [torch.nn.Parameter(p.detach().clone()) for p in params]
    return (theirs, info.optim_cls(theirs, **copy.deepcopy(options))), (
        ours,
        CLASSES[info.optim_cls](ours, **copy.deepcopy(options)),
    )


def give_gradients(info, *columns):
    for row in zip(*columns):
        grad = torch.randn_like(row[0])
        for p in row:
            p.grad = grad.to_sparse() if info.only_supports_sparse_grads and p.dim() else grad.clone()


def assert_same_groups(theirs, ours):
    assert len(theirs.param_groups) == len(ours.param_groups)
    for their, our in zip(theirs.param_groups, ours.param_groups):
        assert_same_value({**their, "params": None}, {**our, "params": None})


def assert_same_value(theirs, ours, **close):
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor) and (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        torch.testing.assert_close(ours.detach(), theirs.detach(), **close)
    elif isinstance(theirs, dict):
        assert theirs.keys() == ours.keys()
        for key in theirs:
            assert_same_value(theirs[key], ours[key], **close)
    elif isinstance(theirs, (list, tuple)):
        assert type(theirs) is type(ours) and len(theirs) == len(ours)
        for a, b in zip(theirs, ours):
            assert_same_value(a, b, **close)
    else:
        assert type(theirs) is type(ours)
        assert theirs == ours


def closeness(info, options):
    """Bit for bit, except for learning rates that are tensors, with which torch computes in float32."""
    evaluates = info.step_requires_closure  # and sums in another order: test_lbfgs.py
    single = evaluates or isinstance(options.get("lr"), torch.Tensor)
    return dict(rtol=1e-6, atol=1e-6) if single else dict(rtol=0, atol=0)


def assert_same_state(info, theirs, ours, their_params, our_params, **close):
    for p, q in zip(their_params, our_params):
        assert_same_value(p.detach(), q.detach(), **close)
        assert (p in theirs.state) == (q in ours.state)
        if p in theirs.state and info.step_requires_closure:
            # torch keeps some of its scalars as numbers or as tensors, as they came.
            their, our = (numbers(optimizer.state[x]) for optimizer, x in ((theirs, p), (ours, q)))
            assert_same_value(their, our, **close)
        elif p in theirs.state:
            assert_same_value(theirs.state[p], ours.state[q], **close)


def numbers(value):
    """Dicts, lists and tensors of numbers as lists of Python numbers; scratch space left out."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items() if key != "al"}
    if isinstance(value, (list, tuple)):
        return [numbers(item) for item in value]
    return torch.as_tensor(value, dtype=torch.float64)


def take_step(info, optimizer, params):
    """A step on the gradients that are there; or, of the quadratic that has them at the start, with a closure."""
    if not info.step_requires_closure:
        return optimizer.step()
    grads, start = [p.grad.clone() for p in params], [p.detach().clone() for p in params]

    def closure():
        optimizer.zero_grad()
        loss = sum((g * (p - s) + (p - s) ** 2).sum() for g, p, s in zip(grads, params, start))
        loss.backward()
        return loss

    return optimizer.step(closure)


def errors():
    return [
        pytest.param(info, case, id=f"{info.optim_cls.__name__}-{case.optimizer_error_input.desc}".replace(" ", "_"))
        for info in DB
        for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    ]
