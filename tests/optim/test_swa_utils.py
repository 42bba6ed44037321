"""optimfx.optim.swa_utils beside torch.optim.swa_utils, and the pure averages beside both."""

import copy
import gc
import inspect
import pickle
import weakref

import pytest
import torch
import torch.optim.swa_utils as theirs
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import optimfx as fx
import optimfx.optim.lr_scheduler as our_schedulers
import optimfx.optim.swa_utils as ours
from optimfx.transforms.average import ema_params, swa_params

# torch's averages are written in other ways (a weighted sum, a division): one rounding of each is another.
ULPS = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2e-2}


def make_model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def train(model, step):
    """Give the model other parameters and statistics."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(37)


def custom(averaged, current, num_averaged):
    return averaged + (current - averaged) / (2 * num_averaged + 1)


def custom_multi(averaged, current, num_averaged):
    for a, c in zip(averaged, current):
        a.copy_(custom(a, c, num_averaged))


# What each AveragedModel is made with, given a module; and whether the values must be torch's to the bit.
FUNCTIONS = {
    "SWA": (lambda m: {}, False),
    "SWA avg_fn": (lambda m: dict(avg_fn=m.get_swa_avg_fn()), False),
    "SWA multi_avg_fn": (lambda m: dict(multi_avg_fn=m.get_swa_multi_avg_fn()), True),
    "EMA avg_fn": (lambda m: dict(avg_fn=m.get_ema_avg_fn(0.9)), False),
    "EMA multi_avg_fn": (lambda m: dict(multi_avg_fn=m.get_ema_multi_avg_fn(0.9)), True),
    "EMA by default": (lambda m: dict(multi_avg_fn=m.get_ema_multi_avg_fn()), True),
    "EMA of everything": (lambda m: dict(multi_avg_fn=m.get_ema_multi_avg_fn(1.0)), True),
    "EMA of nothing": (lambda m: dict(multi_avg_fn=m.get_ema_multi_avg_fn(0.0)), True),
    "custom avg_fn": (lambda m: dict(avg_fn=custom), True),
    "custom multi_avg_fn": (lambda m: dict(multi_avg_fn=custom_multi), True),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def averaged_models(name, model, **options):
    make, exact = FUNCTIONS[name]
    return (
        theirs.AveragedModel(model, **make(theirs), **options),
        ours.AveragedModel(model, **make(ours), **options),
        exact,
    )


def assert_same(expected, model, exact):
    """The same state; to a rounding at each step unless exact."""
    mine, its = model.state_dict(), expected.state_dict()
    assert mine.keys() == its.keys()
    for key, value in mine.items():
        tol = 0.0 if exact or not value.is_floating_point() else ULPS[value.dtype]
        torch.testing.assert_close(value, its[key], rtol=tol, atol=tol)


def test_the_same_names_and_signatures():
    assert set(ours.__all__) == set(theirs.__all__)
    for name in theirs.__all__:
        expected = {k: p.default for k, p in inspect.signature(getattr(theirs, name)).parameters.items()}
        assert {k: p.default for k, p in inspect.signature(getattr(ours, name)).parameters.items()} == expected
    assert issubclass(ours.AveragedModel, nn.Module) and not issubclass(ours.AveragedModel, theirs.AveragedModel)
    assert issubclass(ours.SWALR, torch.optim.lr_scheduler.LRScheduler) and not issubclass(ours.SWALR, theirs.SWALR)


@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_average_of_parameters(name, dtype):
    model = make_model().to(dtype)
    expected, averaged, exact = averaged_models(name, model)
    for step in range(12):
        train(model, step)
        expected.update_parameters(model)
        averaged.update_parameters(model)
        # torch rounds the weight of SWA to float32, which float64 parameters feel.
        if name == "SWA multi_avg_fn" and dtype is torch.float64:
            for a, b in zip(averaged.parameters(), expected.parameters()):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        else:
            assert_same(expected, averaged, exact)
        for mine, its in zip(averaged.module.buffers(), model.buffers()):
            assert mine.equal(its) and mine is not its


def test_swa_is_the_mean_to_the_last_digits():
    model = nn.Linear(3, 1).double()
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_swa_multi_avg_fn())
    seen = []
    for step in range(30):
        train(model, step)
        averaged.update_parameters(model)
        seen.append(model.weight.detach().clone())
    torch.testing.assert_close(averaged.module.weight, torch.stack(seen).mean(0), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "SWA multi_avg_fn"])  # there torch raises
def test_average_of_buffers(name):
    model = make_model()
    expected, averaged, exact = averaged_models(name, model, use_buffers=True)
    for step in range(12):
        train(model, step)
        expected.update_parameters(model)
        averaged.update_parameters(model)
        assert_same(expected, averaged, exact)


def test_swa_of_integer_buffers_by_the_multi_function():
    """Where torch raises: the mean, at each update rounded towards 0."""
    model = make_model()
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_swa_multi_avg_fn(), use_buffers=True)
    for step in range(3):
        train(model, step)
        averaged.update_parameters(model)
    # (37 + 74) / 2 is stored as 55, and 55 + (111 - 55) / 3 as 73.
    assert averaged.module[1].num_batches_tracked == 73


@every_function
def test_complex_parameters(name):
    model = nn.Linear(3, 2, dtype=torch.complex64)
    expected, averaged, _ = averaged_models(name, model)
    for step in range(5):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(step)))
        expected.update_parameters(model)
        averaged.update_parameters(model)
    torch.testing.assert_close(averaged.module.weight, expected.module.weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.startswith("custom")])
def test_an_average_in_a_wider_dtype(name):
    """float32 averages of bfloat16 parameters, which torch's own averages refuse or round."""
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    reference = nn.Linear(3, 2)
    _, averaged, _ = averaged_models(name, model)
    averaged.float()
    _, expected, _ = averaged_models(name, reference)
    for step in range(5):
        train(model, step)
        reference.load_state_dict(model.state_dict())
        averaged.update_parameters(model)
        expected.update_parameters(reference)
    assert averaged.module.weight.dtype is torch.float32
    torch.testing.assert_close(averaged.module.weight, expected.module.weight, rtol=0, atol=0)


def test_first_update_copies_and_the_model_is_not_shared():
    model = make_model()
    averaged = ours.AveragedModel(model, multi_avg_fn=ours.get_ema_multi_avg_fn(0.999))
    assert averaged.n_averaged.dtype is torch.long and averaged.n_averaged == 0
    train(model, 0)
    assert not averaged.module[0].weight.equal(model[0].weight)
    averaged.update_parameters(model)
    assert averaged.module[0].weight.equal(model[0].weight)
    assert averaged.module[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert averaged.n_averaged == 1
    assert averaged.module[0].weight.requires_grad and averaged.module[0].weight.grad_fn is None


def test_groups_by_device_and_dtype():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(2, 2)])
    groups = []

    def recording(averaged, current, num_averaged):
        assert isinstance(num_averaged, torch.Tensor)
        groups.append({a.dtype for a in averaged} | {c.dtype for c in current})
        assert all(a.shape == c.shape for a, c in zip(averaged, current))

    averaged = ours.AveragedModel(model, multi_avg_fn=recording)
    for _ in range(2):
        averaged.update_parameters(model)
    assert groups == [{torch.float32}, {torch.float64}]


def test_averages_live_on_their_device():
    averaged = ours.AveragedModel(nn.Linear(2, 2), device=torch.device("meta"))
    assert averaged.module.weight.device.type == averaged.n_averaged.device.type == "meta"


def test_forward_is_the_modules():
    model = nn.Linear(2, 2)
    averaged = ours.AveragedModel(model)
    x = torch.randn(3, 2)
    assert averaged(x).equal(model(x)) and averaged(input=x).equal(model(x))


@pytest.mark.parametrize("into_ours", [True, False])
def test_checkpoints_of_averages_go_both_ways(into_ours):
    model = make_model()
    source, target = (m.AveragedModel(model) for m in ((theirs, ours) if into_ours else (ours, theirs)))
    for step in range(4):
        train(model, step)
        source.update_parameters(model)
    target.load_state_dict(source.state_dict())
    train(model, 5)
    source.update_parameters(model)
    target.update_parameters(model)
    assert_same(source, target, exact=False)
    assert target.n_averaged == 5


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.startswith("custom")])
@pytest.mark.parametrize("copying", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copied_averages_go_on(name, copying):
    model = make_model()
    _, averaged, _ = averaged_models(name, model)
    for step in range(2):
        train(model, step)
        averaged.update_parameters(model)
    other = copying(averaged)
    train(model, 3)
    averaged.update_parameters(model)
    other.update_parameters(model)
    assert_same(averaged, other, exact=True)


@pytest.mark.parametrize("name", ["get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn"])
def test_functions_by_themselves(name):
    """With a count that is a number too, and nothing recorded by autograd."""
    expected = torch.randn(2, 3, requires_grad=True)
    averaged = expected.detach().clone().requires_grad_()
    current = torch.randn(2, 3)
    results = []
    for module, tensor in ((theirs, expected), (ours, averaged)):
        function = getattr(module, name)()
        if "multi" in name:
            assert function([tensor], [current], 3) is None
            results.append(tensor)
        else:
            results.append(function(tensor, current, 3))
            assert not results[-1].requires_grad
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)


def test_ema_functions_ignore_the_count():
    averaged = [torch.zeros(1)]
    ours.get_ema_multi_avg_fn(0.75)(averaged, [torch.ones(1)], None)
    assert averaged[0] == ours.get_ema_avg_fn(0.75)(torch.zeros(1), torch.ones(1), None) == 0.25


@pytest.mark.parametrize(
    "bad",
    [
        lambda m: m.get_ema_avg_fn(1.1),
        lambda m: m.get_ema_multi_avg_fn(-0.1),
        lambda m: m.AveragedModel(nn.Linear(1, 1), avg_fn=custom, multi_avg_fn=custom_multi),
        lambda m: m.SWALR(make_optimizer(), 0.1, anneal_strategy="x"),
        lambda m: m.SWALR(make_optimizer(), 0.1, anneal_epochs=-1),
        lambda m: m.SWALR(make_optimizer(), 0.1, anneal_epochs=1.5),
        lambda m: m.SWALR(make_optimizer(), [0.1]),
    ],
)
def test_averages_refuse_bad_arguments(bad):
    errors = []
    for module in (theirs, ours):
        with pytest.raises(Exception) as error:
            bad(module)
        errors.append((type(error.value), str(error.value)))
    assert errors[1] == errors[0]


# update_bn


def batches(kind):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, 3, generator=generator) for _ in range(4)]
    return {
        "tensors": inputs,
        "pairs": [(x, torch.zeros(5)) for x in inputs],
        "lists": [[x, torch.zeros(5)] for x in inputs],
    }[kind]


@pytest.mark.parametrize("kind", ["tensors", "pairs", "lists"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_update_bn(kind, training, device):
    model = make_model()
    train(model, 1)
    model[1].momentum = 0.3
    model.train(training)
    expected = copy.deepcopy(model)
    theirs.update_bn(batches(kind), expected, device)
    ours.update_bn(batches(kind), model, device)
    for mine, its in zip(model.buffers(), expected.buffers()):
        assert mine.equal(its)
    assert model.training is training and model[1].momentum == 0.3
    assert model[1].num_batches_tracked == 4
    assert all(parameter.grad is None for parameter in model.parameters())


def test_update_bn_records_nothing_for_autograd():
    model, recorded = make_model(), []
    model.register_forward_hook(lambda module, inputs, output: recorded.append(output.requires_grad))
    ours.update_bn(batches("tensors"), model)
    assert recorded == [False] * 4


def test_update_bn_leaves_a_model_without_statistics_alone():
    def never():
        raise AssertionError("the data is read")
        yield

    ours.update_bn(never(), nn.Linear(3, 2))


def test_update_bn_puts_everything_back_when_a_batch_fails():
    model = make_model().eval()
    with pytest.raises(RuntimeError):
        ours.update_bn([torch.zeros(5, 7)], model)
    assert not model.training and model[1].momentum == 0.1


# SWALR


def make_optimizer(lrs=(0.5, 0.05)):
    return torch.optim.SGD([{"params": [torch.zeros((), requires_grad=True)], "lr": lr} for lr in lrs])


def advance(*schedulers):
    for scheduler in schedulers:
        scheduler.optimizer.step()
        scheduler.step()


def rates(scheduler):
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def assert_same_rates(expected, scheduler):
    # torch finds out the first rate again at each step, and loses some digits where little is left of the way.
    assert rates(scheduler) == pytest.approx(rates(expected), rel=1e-12, abs=1e-14)
    assert [float(lr) for lr in scheduler.get_last_lr()] == rates(scheduler)


OPTIONS = [
    dict(swa_lr=0.1),
    dict(swa_lr=[0.1, 0.3], anneal_epochs=7, anneal_strategy="linear"),
    dict(swa_lr=0.1, anneal_epochs=0),
    dict(swa_lr=0.1, anneal_epochs=1, anneal_strategy="linear"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("changed", [False, True])
def test_swalr(options, changed):
    expected, scheduler = (m.SWALR(make_optimizer(), **options) for m in (theirs, ours))
    assert rates(scheduler) == rates(expected)
    for step in range(20):
        for s in (expected, scheduler) if changed and step in (3, 12) else ():
            s.optimizer.param_groups[0]["lr"] *= 0.3
        advance(expected, scheduler)
        assert_same_rates(expected, scheduler)


@given(st.floats(0.01, 1.0), st.integers(0, 40), st.sampled_from(["cos", "linear"]), st.floats(0.01, 1.0))
def test_swalr_with_any_options(swa_lr, anneal_epochs, strategy, lr):
    expected, scheduler = (m.SWALR(make_optimizer((lr,)), swa_lr, anneal_epochs, strategy) for m in (theirs, ours))
    for _ in range(45):
        advance(expected, scheduler)
        assert_same_rates(expected, scheduler)


def test_swalr_with_a_tensor_rate():
    lrs = [torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.05, dtype=torch.float64)]
    expected, scheduler = theirs.SWALR(make_optimizer(), 0.1), ours.SWALR(make_optimizer(lrs), 0.1)
    for _ in range(12):
        advance(expected, scheduler)
        assert_same_rates(expected, scheduler)
    assert all(group["lr"] is lr for group, lr in zip(scheduler.optimizer.param_groups, lrs))


@pytest.mark.parametrize("into_ours", [True, False])
def test_swalr_checkpoints_go_both_ways(into_ours):
    modules = (theirs, ours) if into_ours else (ours, theirs)
    source = modules[0].SWALR(make_optimizer(), 0.1, 8, "linear")
    target = modules[1].SWALR(make_optimizer(), 0.2)
    for _ in range(4):
        advance(source)
    saved = source.state_dict()
    assert "anneal_func" not in saved and saved.keys() == target.state_dict().keys()
    target.load_state_dict(saved)
    target.optimizer.load_state_dict(source.optimizer.state_dict())
    for _ in range(8):
        advance(source, target)
        assert_same_rates(source, target)


def test_swalr_in_a_sequence_with_copies_and_without_cycles():
    optimizer = make_optimizer()
    parts = [our_schedulers.CosineAnnealingLR(optimizer, 9), ours.SWALR(optimizer, 0.1, 4)]
    scheduler = our_schedulers.SequentialLR(optimizer, parts, [5])
    other = pickle.loads(pickle.dumps(scheduler.state_dict()))
    assert other["_schedulers"][1]["_anneal_strategy"] == "cos"
    for _ in range(12):
        advance(scheduler)
    assert rates(scheduler) == pytest.approx([0.1, 0.1])
    freed = weakref.ref(optimizer)
    gc.disable()
    try:
        del scheduler, optimizer, parts
        assert freed() is None
    finally:
        gc.enable()


def test_swalr_get_lr_outside_of_step_warns():
    scheduler = ours.SWALR(make_optimizer(), 0.1)
    with pytest.warns(UserWarning, match="please use `get_last_lr\\(\\)`"):
        assert scheduler.get_lr() == rates(scheduler)


# Whole loops


def loop(module, schedulers, make_average, swa_start=6, epochs=12):
    """Training with a schedule until the averaging begins, and the statistics measured again at the end."""
    torch.manual_seed(0)
    model = make_model()
    data = [(torch.randn(8, 3), torch.randn(8, 2)) for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averaged = make_average(module, model)
    scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=epochs)
    swa_scheduler = module.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    for epoch in range(epochs):
        for inputs, target in data:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), target).backward()
            optimizer.step()
        if epoch >= swa_start:
            averaged.update_parameters(model)
            swa_scheduler.step()
        else:
            scheduler.step()
    module.update_bn(data, averaged)
    return averaged.eval()(data[0][0])


LOOPS = {
    "SWA": lambda module, model: module.AveragedModel(model),
    "EMA": lambda module, model: module.AveragedModel(model, multi_avg_fn=module.get_ema_multi_avg_fn(0.9)),
    "EMA with buffers": lambda module, model: module.AveragedModel(
        model, multi_avg_fn=module.get_ema_multi_avg_fn(0.9), use_buffers=True
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_whole_loops_with_averages(name):
    expected = loop(theirs, torch.optim.lr_scheduler, LOOPS[name])
    result = loop(ours, our_schedulers, LOOPS[name])
    # Batch normalization and 36 steps enlarge the last digits of the rates.
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


# The pure averages


PURE = {
    "ema": (lambda: ema_params(0.9), lambda: ours.get_ema_multi_avg_fn(0.9)),
    "swa": (lambda: swa_params(), lambda: ours.get_swa_multi_avg_fn()),
}
every_pure = pytest.mark.parametrize("name", PURE)


@every_pure
@pytest.mark.parametrize("stepping", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
def test_pure_averages_are_those_of_the_class(name, stepping, inplace):
    """Bit by bit, in a chain, over both ways to apply updates."""
    make, multi_avg_fn = PURE[name]
    model = make_model()
    averaged = ours.AveragedModel(model, multi_avg_fn=multi_avg_fn())
    tx = fx.chain(fx.sgd(lr=0.1, momentum=0.9), make())
    params = {key: p.detach().clone() for key, p in model.named_parameters()}
    state = tx.init(params)
    for step in range(8):
        grads = {key: torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) for key, p in params.items()}
        if stepping:
            params, state = fx.step(tx, grads, state, params, inplace=inplace)
        else:
            updates, state = tx.update(grads, state, params, inplace=inplace)
            params = fx.apply_updates(params, updates, inplace=inplace)
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.copy_(params[key])
        averaged.update_parameters(model)
        for key, p in averaged.module.named_parameters():
            assert state[1].averaged[key].equal(p)
        assert all(count == step + 1 for count in state[1].step.values())


@every_pure
def test_pure_averages_leave_the_updates_and_the_parameters_alone(name):
    tx = PURE[name][0]()
    params, updates = {"w": torch.randn(3)}, {"w": torch.randn(3)}
    kept = copy.deepcopy((params, updates))
    state = tx.init(params)
    assert state.averaged["w"].equal(params["w"]) and state.averaged["w"] is not params["w"]
    results, after = tx.update(updates, state, params)
    assert results["w"].equal(kept[1]["w"])
    assert after.averaged["w"].equal(params["w"] + updates["w"])
    assert params["w"].equal(kept[0]["w"]) and state.averaged["w"].equal(kept[0]["w"])


@every_pure
def test_pure_averages_skip_leaves_without_update(name):
    tx = PURE[name][0]()
    params = {"w": torch.ones(2), "b": torch.ones(1)}
    _, state = tx.update({"w": torch.ones(2), "b": None}, tx.init(params), params)
    assert state.step == {"w": 1.0, "b": 0.0}
    assert state.averaged["b"].equal(params["b"])


@every_pure
def test_pure_averages_keep_another_dtype(name):
    make = {"ema": ema_params, "swa": swa_params}[name]
    tx = make(state_dtype=torch.float32)
    params = {"w": torch.ones(3, dtype=torch.bfloat16)}
    _, state = tx.update({"w": torch.full((3,), 2**-12, dtype=torch.bfloat16)}, tx.init(params), params)
    assert state.averaged["w"].equal(torch.full((3,), 1 + 2**-12))


@every_pure
def test_pure_averages_need_the_parameters(name):
    tx = PURE[name][0]()
    params = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match=f"{name}_params needs the parameters"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("decay", [-0.1, 1.0, "x"])
def test_pure_ema_refuses_decays_outside_of_its_range(decay):
    with pytest.raises((ValueError, TypeError), match="decay must be"):
        ema_params(decay)


def test_pure_ema_takes_tensors_and_schedules():
    def averaged(decay):
        tx = ema_params(decay)
        params = {"w": torch.tensor([8.0])}
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update({"w": torch.tensor([1.0])}, state, params)
            params = fx.apply_updates(params, updates)
        return state.averaged["w"].sum()

    assert averaged(0.75) == averaged(lambda step: 0.75) == averaged(torch.tensor(0.75)) == 9.25
    assert torch.vmap(averaged)(torch.tensor([0.0, 0.5])).tolist() == [10.0, 9.5]
    assert torch.func.grad(averaged)(torch.tensor(0.75)) == -1.0
