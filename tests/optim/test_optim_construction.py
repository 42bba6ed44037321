"""Arguments that constructors take, keep and refuse: torch's classes beside ours, in torch's words."""

import copy
import inspect
import itertools
import warnings
from contextlib import nullcontext

import pytest
import torch
from classes import CLASSES, DB, EVERY, assert_same_value, by_class, give_gradients, parameters, take_step

import optimfx as fx
import optimfx.optim as optim

T = torch.tensor


def outcome(make, *args):
    """Return the result, or the type and text of the error; and the warnings."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            result = make(*args)
        except TypeError as error:  # Python's own texts name the operands in the order of the comparison
            result = "TypeError", None if "instances of" in str(error) else str(error)
        except Exception as error:
            result = type(error).__name__, str(error)
    return result, [str(warning.message) for warning in record]


# Parameters, made of two leaves and a tensor that is none.
PARAMS = {
    "a tensor": lambda a, b, c: a,
    "nothing": lambda a, b, c: [],
    "an iterator": lambda a, b, c: iter([a, b]),
    "a set": lambda a, b, c: [{"params": {a, b}}],
    "a tensor as a group": lambda a, b, c: [{"params": a}],
    "a number": lambda a, b, c: [a, 1.0],
    "None": lambda a, b, c: [None],
    "a group that is none": lambda a, b, c: [{"params": [a]}, [b]],
    "no params": lambda a, b, c: [{"lr": 0.1}],
    "twice in a group": lambda a, b, c: [a, b, a],
    "in two groups": lambda a, b, c: [{"params": [a]}, {"params": [a]}],
    "not a leaf": lambda a, b, c: [c],
    "not a leaf, whose gradient is kept": lambda a, b, c: [c.retain_grad() or c],
    "names": lambda a, b, c: [("a", a), ("b", b)],
    "names in groups": lambda a, b, c: [{"params": [("a", a)]}, {"params": [("b", b)]}],
    "a name is missing": lambda a, b, c: [("a", a), b],
    "names in the first group": lambda a, b, c: [{"params": [("a", a)]}, {"params": [b]}],
    "names in the second group": lambda a, b, c: [{"params": [a]}, {"params": [("b", b)]}],
}
CONSTRUCTORS = {
    **{CLASSES[info.optim_cls].__name__: (info.optim_cls, CLASSES[info.optim_cls]) for info in DB},
    **{info.optim_cls.__name__: (torch.optim.SGD, info.optim_cls) for info in EVERY if info not in DB},
    "TransformOptimizer": (
        torch.optim.SGD,
        lambda params: optim.TransformOptimizer(params, fx.inject_hyperparams(fx.sgd)()),
    ),
}


@pytest.mark.parametrize("case", PARAMS)
@pytest.mark.parametrize("theirs, ours", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
def test_parameters_are_taken_or_refused_as_by_torch(theirs, ours, case):
    """Also kept as by torch, in the same groups and with the same names."""
    a, b = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    c = a * 1

    def kept(cls):
        groups = cls(PARAMS[case](a, b, c)).param_groups
        return [([id(p) for p in group["params"]], group.get("param_names")) for group in groups]

    assert outcome(kept, ours) == outcome(kept, theirs)


NUMBERS = [-1, -1.0, -1e-9, 0, 0.0, 0.5, 1, 1.0, 1.1, float("inf"), True, None, "x", "original"]
PAIRS = [(1.0, 0.5), (0.5, 1.0), (-0.1, 0.5), (0.5, -0.1), (0.5, 1.2), (1.2, 0.5), (None, -1.0), (-1.0, 1e-3)]
TENSORS = {
    "lr": [T(0.1), T([0.1]), T([0.1, 0.2]), T(-0.1)],
    "betas": [
        *[(T(0.5), T(0.5)), (T(0.5), 0.5), (0.5, T(0.5)), (T([0.5]), T([0.5])), (T(1.5), T(0.5))],
        *[(T([0.5, 0.5]), T(0.5)), (T(0.5), T([0.5, 0.5]))],
    ],
}
WAYS = [{}, {"foreach": True}, {"foreach": True, "capturable": True}]


def printed(cls, options):
    return repr(cls([torch.nn.Parameter(torch.ones(2, 3))], **copy.deepcopy(options)))


@by_class(DB)
def test_every_hyperparameter_has_torchs_range(info):
    """Numbers, pairs and tensors; with the list form, which does not take every tensor."""
    names = list(inspect.signature(info.optim_cls).parameters)[1:]
    for name, way in itertools.product(names, WAYS):
        if name in way or not set(way) <= set(names):
            continue
        for value in [*NUMBERS, *PAIRS, *TENSORS.get(name, [])]:
            options = {name: value, **way}
            assert outcome(printed, CLASSES[info.optim_cls], options) == outcome(printed, info.optim_cls, options)


FLAGS = ("maximize", "foreach", "capturable", "differentiable", "fused")


@by_class(DB)
def test_every_combination_of_flags_is_kept_and_printed(info):
    """Or refused; with a number and with a tensor as the learning rate."""
    flags = [flag for flag in FLAGS if flag in inspect.signature(info.optim_cls).parameters]
    for values in itertools.product([False, True], repeat=len(flags)):
        for lr in (0.1, T(0.1)):
            options = dict(zip(flags, values), lr=lr)
            assert outcome(printed, CLASSES[info.optim_cls], options) == outcome(printed, info.optim_cls, options)


@by_class()
def test_an_optimizer_prints_its_groups(info):
    """Their keys sorted, without the parameters."""
    optimizer = CLASSES[info.optim_cls](parameters(info))
    (group,) = optimizer.param_groups
    lines = [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
    assert repr(optimizer).splitlines() == [f"{type(optimizer).__name__} (", "Parameter Group 0", *lines, ")"]


@by_class([info for info in EVERY if "differentiable" in info.supported_impls])
def test_a_differentiable_optimizer_takes_what_is_no_leaf(info):
    p = torch.nn.Parameter(torch.ones(2, 3))
    CLASSES[info.optim_cls]([p.clone()], differentiable=True)
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        CLASSES[info.optim_cls]([p.clone()])


@pytest.mark.parametrize(
    "info, options",
    [
        pytest.param(info, case.kwargs, id=f"{info.optim_cls.__name__}-{case.desc}".replace(" ", "_"))
        for info in EVERY
        for case in info.optim_inputs_func(device="cpu")
        if info.supports_param_groups and "capturable" not in case.kwargs
    ],
)
def test_a_group_overrides_any_hyperparameter(info, options):
    """Groups step as optimizers of their own do, bit for bit."""

    def run(make):
        torch.manual_seed(0)
        columns = [[torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3, 1))] for _ in range(2)]
        optimizers = make(CLASSES[info.optim_cls], *columns)
        for _ in range(3):
            for params in columns:
                give_gradients(info, params)
            for optimizer in optimizers:
                take_step(info, optimizer, [p for group in optimizer.param_groups for p in group["params"]])
        return [[p.detach() for p in params] for params in columns]

    # In bfloat16, a stack of matrices rounds otherwise than each by itself.
    with fx.execution.use("eager") if info.optim_cls is torch.optim.Muon else nullcontext():
        together = run(lambda cls, a, b: [cls([{"params": a, **copy.deepcopy(options)}, {"params": b}])])
    apart = run(lambda cls, a, b: [cls(a, **copy.deepcopy(options)), cls(b)])
    assert_same_value(together, apart, rtol=0, atol=0)
