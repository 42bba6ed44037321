"""The classes of optimfx.optim beside torch's: every case of torch's own table, side by side."""

import copy
import inspect

import pytest
import torch
from classes import (
    CLASSES,
    DB,
    STEPS,
    assert_same_groups,
    assert_same_state,
    assert_same_value,
    by_class,
    closeness,
    errors,
    give_gradients,
    inputs,
    pair,
    parameters,
    some_params,
    take_step,
)
from torch.testing._internal.common_optimizers import OptimizerErrorEnum


@pytest.mark.parametrize(
    "info, options", inputs(lambda info: [{"foreach": False}] if "foreach" in info.supported_impls else [{}])
)
def test_classes_are_bit_equal_to_torch(info, options):
    """Defaults, groups, parameters, state keys and values after each of ten steps, leaf by leaf: bit for bit."""
    if info.only_supports_sparse_grads:
        params = [torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))]
    else:
        params = parameters(info)
    (their_params, theirs), (our_params, ours) = pair(info, params, **options)
    assert_same_value(theirs.defaults, ours.defaults)
    assert_same_groups(theirs, ours)
    assert repr(theirs) == repr(ours)
    for _ in range(STEPS):
        give_gradients(info, their_params, our_params)
        take_step(info, theirs, their_params)
        take_step(info, ours, our_params)
        assert_same_state(info, theirs, ours, their_params, our_params, **closeness(info, options))
    assert_same_groups(theirs, ours)


@by_class(DB)
def test_constructors_have_torchs_signature(info):
    theirs, ours = (inspect.signature(cls.__init__).parameters for cls in (info.optim_cls, CLASSES[info.optim_cls]))
    ours_alone = [name for name in ours if name not in theirs]
    assert [name for name in ours if name in theirs] == list(theirs)
    assert ours_alone in ([], ["fused"])
    assert all(ours[name].kind == inspect.Parameter.KEYWORD_ONLY for name in ours_alone)
    for name in theirs:
        assert theirs[name].kind == ours[name].kind, name
        assert theirs[name].default == ours[name].default, name
    assert issubclass(CLASSES[info.optim_cls], info.optim_cls)


@by_class(DB)
def test_every_number_is_the_pure_rules(info, monkeypatch):
    """Torch's step and its functional forms are not called by the step of the class that inherits it."""

    def unreachable(*args, **kwargs):
        raise AssertionError("torch's own step was called")

    monkeypatch.setattr(info.optim_cls, "step", unreachable)
    monkeypatch.setattr(info.optim_cls, "_init_group", unreachable, raising=False)
    module = inspect.getmodule(info.optim_cls)
    for name, value in vars(module).copy().items():
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            monkeypatch.setattr(module, name, unreachable)
    params = some_params(info, torch.float32)
    optimizer = CLASSES[info.optim_cls](params)
    before = [p.detach().clone() for p in params]
    give_gradients(info, params)
    take_step(info, optimizer, params)
    assert not any(torch.equal(p, old) for p, old in zip(params, before))


@pytest.mark.parametrize("info, case", errors())
def test_errors_are_torchs(info, case):
    """The type and the whole text, from torch's class and from ours."""

    def said(cls):
        given = case.optimizer_error_input
        with (
            pytest.raises(case.error_type)
            if case.error_type is not UserWarning
            else pytest.warns(UserWarning) as raised
        ):
            params = given.params
            if params is None:
                params = [torch.nn.Parameter(torch.randn(2, 3)) for _ in range(2)]
            optimizer = cls(params, **copy.deepcopy(given.kwargs))
            if case.error_on is OptimizerErrorEnum.STEP_ERROR:
                optimizer.step()
        return str(raised.value) if case.error_type is not UserWarning else str(raised[0].message)

    assert said(CLASSES[info.optim_cls]) == said(info.optim_cls)
