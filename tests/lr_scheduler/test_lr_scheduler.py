"""optimfx.optim.lr_scheduler beside torch.optim.lr_scheduler, which says what is right: step by step."""

import copy
import gc
import inspect
import pickle
import random
import weakref

import pytest
import torch
import torch.optim.lr_scheduler as theirs
from hypothesis import given
from hypothesis import strategies as st
from schedulers import (
    DIVIDED_BY_ZERO,
    LRS,
    MAKERS,
    STEPS,
    Halving,
    advance,
    assert_same,
    both_optimizers,
    every_maker,
    exact,
    grown,
    make_optimizer,
    near,
    numbers,
    pair,
    slower,
)

import optimfx as fx
import optimfx.optim.lr_scheduler as ours


def test_the_same_names_signatures_and_bases():
    assert set(ours.__all__) == set(theirs.__all__)
    for name in theirs.__all__:
        mine, its = getattr(ours, name), getattr(theirs, name)
        assert issubclass(mine, theirs.LRScheduler) and issubclass(mine, ours.LRScheduler)
        # A trainer asks whether it has torch's plateau, to know what to step it with; of no other one is it asked.
        assert issubclass(mine, its) == (name in ("LRScheduler", "ReduceLROnPlateau"))
        expected = {key: p.default for key, p in inspect.signature(its).parameters.items()}
        assert {key: p.default for key, p in inspect.signature(mine).parameters.items()} == expected
        assert list(inspect.signature(mine.step).parameters) == list(inspect.signature(its.step).parameters)
    assert ours.EPOCH_DEPRECATION_WARNING is theirs.EPOCH_DEPRECATION_WARNING


@every_maker
@both_optimizers
def test_rates_equal_torch_step_by_step(name, optimizer_class):
    expected, scheduler = pair(name, optimizer_class)
    for _ in range(STEPS):
        assert_same(expected, scheduler, exact(name))
        advance(expected, scheduler)
    assert_same(expected, scheduler, exact(name))


@every_maker
def test_rates_that_the_user_changes(name):
    expected, scheduler = pair(name)
    for step in range(STEPS):
        for s in (expected, scheduler):
            if step in (4, 7, 20):
                s.optimizer.param_groups[0]["lr"] *= 0.3
            if step in (8, 33):
                s.optimizer.param_groups[1]["lr"] = 0.2
        advance(expected, scheduler)
        assert_same(expected, scheduler, exact(name))


@every_maker
def test_tensor_rates_are_written_in_place(name):
    lrs = [torch.tensor(lr, dtype=torch.float64) for lr in LRS]
    expected, scheduler = pair(name, lrs=lrs)
    tensors = [group["lr"] for group in scheduler.optimizer.param_groups]
    for _ in range(STEPS):
        assert_same(expected, scheduler, exact(name))
        advance(expected, scheduler)
    for group, tensor in zip(scheduler.optimizer.param_groups, tensors):
        assert group["lr"] is tensor
        assert not any(value is tensor for key, value in group.items() if key != "lr")
    held = [*scheduler.get_last_lr(), *scheduler.base_lrs, *scheduler.state_dict()["_last_lr"]]
    assert not any(value is tensor for value in held for tensor in tensors)


@pytest.mark.filterwarnings("ignore:To get the last learning rate")
@every_maker
def test_get_lr_returns_copies(name):
    _, scheduler = pair(name, lrs=[torch.tensor(lr, dtype=torch.float64) for lr in LRS])
    for rate in (rate for _ in range(9) for rate in (scheduler.get_lr(), advance(scheduler))[0]):
        if isinstance(rate, torch.Tensor):
            rate.fill_(-1.0)
    assert all(group["lr"] >= 0 for group in scheduler.optimizer.param_groups)
    assert all(rate >= 0 for rate in scheduler.base_lrs)


def test_a_rate_of_one_element():
    """torch allows lr = torch.tensor([0.1])."""
    expected, scheduler = pair("LambdaLR", lrs=[torch.tensor([0.1])])
    advance(expected, scheduler)
    assert scheduler.optimizer.param_groups[0]["lr"].equal(torch.tensor([0.05]))
    ours.SequentialLR(scheduler.optimizer, [ours.LambdaLR(scheduler.optimizer, slower)], [])
    assert scheduler.optimizer.param_groups[0]["lr"].equal(torch.tensor([0.1]))


def test_bounds_that_are_tensors_are_copied():
    bound, optimizer = torch.tensor(0.3), make_optimizer()
    scheduler = ours.CyclicLR(optimizer, bound, bound, base_momentum=bound, max_momentum=bound)
    held = [*scheduler.base_lrs, *scheduler.max_lrs, *scheduler.base_momentums, *scheduler.max_momentums]
    held += [value for group in optimizer.param_groups for value in group.values()]
    assert not any(value is bound for value in held)


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in DIVIDED_BY_ZERO])
def test_schedulers_equal_their_closed_form(name):
    expected, scheduler = pair(name)
    warned = not name.startswith("CosineAnnealingWarmRestarts")
    for epoch in (5, 3, 0, 17, 4):
        for s in (expected, scheduler):
            if warned:
                with pytest.warns(UserWarning) as record:
                    s.optimizer.step()
                    s.step(epoch)
                assert [str(w.message) for w in record] == [theirs.EPOCH_DEPRECATION_WARNING]
            else:
                s.step(epoch)
        assert scheduler.last_epoch == expected.last_epoch == epoch
        assert_same(expected, scheduler)
        for _ in range(3):
            advance(expected, scheduler)
            assert_same(expected, scheduler, exact(name))


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", DIVIDED_BY_ZERO)
def test_closed_form_of_no_steps_stays_where_torch_divides_by_zero(name):
    expected, scheduler = pair(name)
    advance(expected, scheduler)
    before = scheduler.get_last_lr()
    with pytest.raises(ZeroDivisionError):
        expected.step(3)
    scheduler.step(3)
    assert scheduler.get_last_lr() == before


@every_maker
def test_closed_form_is_there_where_torch_has_it(name):
    expected, scheduler = pair(name)
    assert hasattr(scheduler, "_get_closed_form_lr") == hasattr(expected, "_get_closed_form_lr")


PURE = {
    "StepLR": lambda lr: fx.schedules.step_decay(lr, 3),
    "MultiStepLR": lambda lr: fx.schedules.multi_step(lr, [9, 2, 9, 30], 0.3),
    "ConstantLR": lambda lr: fx.schedules.constant(lr),
    "LinearLR": lambda lr: fx.schedules.linear(lr),
    "ExponentialLR": lambda lr: fx.schedules.exponential(lr, 0.9),
    "PolynomialLR": lambda lr: fx.schedules.polynomial(lr, 17, 1.7),
    "CosineAnnealingLR": lambda lr: fx.schedules.cosine_annealing(lr, 11),
    "CosineAnnealingWarmRestarts longer": lambda lr: fx.schedules.cosine_annealing_warm_restarts(lr, 3, 2, 0.001),
    "CyclicLR": lambda lr: fx.schedules.cyclic(0.01, 0.3, 5),
    "OneCycleLR": lambda lr: fx.schedules.one_cycle(0.5, STEPS),
}


@pytest.mark.parametrize("name", PURE)
def test_follows_the_pure_schedule(name):
    _, scheduler = pair(name)
    for step in range(STEPS):
        assert scheduler.get_last_lr() == pytest.approx([PURE[name](lr)(step) for lr in LRS], rel=1e-12, abs=1e-13)
        advance(scheduler)


@pytest.mark.parametrize("last_epoch", [0, 2, 8, 10, 29])
@every_maker
def test_resuming_at_an_epoch(name, last_epoch):
    saved = pair(name)[0].optimizer.state_dict()
    resumed = []
    for module in (theirs, ours):
        optimizer = make_optimizer()
        optimizer.load_state_dict(copy.deepcopy(saved))
        resumed.append(MAKERS[name](module, optimizer, last_epoch=last_epoch))
    for _ in range(20):
        assert_same(*resumed, exact(name))
        advance(*resumed)


def test_resuming_with_other_options():
    """Numbers are read from the groups where torch reads them from there."""
    for name, options in {
        "CyclicLR": dict(base_lr=0.02, max_lr=0.2, step_size_up=3, base_momentum=0.3, max_momentum=0.4),
        "OneCycleLR": dict(max_lr=0.2, total_steps=40, base_momentum=0.3, max_momentum=0.4),
    }.items():
        saved = pair(name)[0].optimizer.state_dict()
        resumed = []
        for module in (theirs, ours):
            optimizer = make_optimizer()
            optimizer.load_state_dict(copy.deepcopy(saved))
            resumed.append(getattr(module, name)(optimizer, **options, last_epoch=4))
        for _ in range(9):
            assert_same(*resumed)
            advance(*resumed)


def test_a_second_scheduler_of_an_optimizer():
    """The first one has left initial_lr in the groups."""
    for name in ("CyclicLR", "OneCycleLR", "ExponentialLR"):
        schedulers = []
        for module in (theirs, ours):
            optimizer = make_optimizer()
            module.ConstantLR(optimizer)
            schedulers.append(MAKERS[name](module, optimizer))
        for _ in range(9):
            assert_same(*schedulers)
            advance(*schedulers)


def test_resuming_needs_the_initial_rates():
    errors = []
    for module in (theirs, ours):
        with pytest.raises(KeyError) as error:
            module.StepLR(make_optimizer(), 3, last_epoch=4)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("into_ours", [True, False])
@every_maker
def test_checkpoints_go_both_ways(name, into_ours):
    source, target = pair(name) if into_ours else reversed(pair(name))
    for _ in range(13):
        advance(source)
    saved = copy.deepcopy((source.state_dict(), source.optimizer.state_dict()))
    given = copy.deepcopy(saved[0])
    target.load_state_dict(given)
    target.optimizer.load_state_dict(saved[1])
    assert given.keys() == saved[0].keys() or not into_ours  # torch's CyclicLR takes a key out
    assert target.state_dict().keys() == source.state_dict().keys()
    for _ in range(20):
        advance(source, target)
        assert_same(source, target, exact(name))


def test_checkpoints_with_other_options():
    """The saved arguments are used, not those of the constructor."""
    source = ours.CyclicLR(make_optimizer(), 0.01, 0.3, 6, 9, "exp_range", 0.97)
    advance(source)
    target = ours.CyclicLR(make_optimizer(), 0.1, 0.2)
    target.load_state_dict(source.state_dict())
    target.optimizer.load_state_dict(source.optimizer.state_dict())
    advance(source, target)
    assert_same(source, target)


def test_a_cycle_of_a_function_into_one_of_a_mode():
    """The function is not saved, and what it was a function of does not carry over."""
    loaded = []
    for module in (theirs, ours):
        source = module.CyclicLR(make_optimizer(), 0.1, 0.2, 3, scale_fn=slower, scale_mode="iterations")
        target = module.CyclicLR(make_optimizer(), 0.1, 0.2, 3)
        target.load_state_dict(source.state_dict())
        assert target.scale_mode == "cycle" and target.scale_fn(3) == 1.0
        loaded.append(target)
    for _ in range(9):
        advance(*loaded)
        assert_same(*loaded)


def test_state_of_callables():
    """Objects are saved by their attributes, functions are not, and the dict that is loaded stays whole."""
    for make in (
        lambda m, f: m.LambdaLR(make_optimizer(), [slower, f]),
        lambda m, f: m.MultiplicativeLR(make_optimizer(), [slower, f]),
        lambda m, f: m.CyclicLR(make_optimizer(), 0.1, 0.2, scale_fn=f),
    ):
        saved = make(ours, Halving(4)).state_dict()
        key = "lr_lambdas" if "lr_lambdas" in saved else "_scale_fn_custom"
        assert saved[key] == make(theirs, Halving(4)).state_dict()[key]
        function = Halving(8)
        make(ours, function).load_state_dict(saved)
        assert function.every == 4
        assert saved[key] is not None
        state = make(ours, function).state_dict()[key]
        function.every = 5
        assert state == saved[key]
    assert ours.CyclicLR(make_optimizer(), 0.1, 0.2, scale_fn=slower).state_dict()["_scale_fn_custom"] is None


@pytest.mark.parametrize("copying", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("name", [n for n in MAKERS if n != "MultiplicativeLR"])  # its lambda cannot be pickled
def test_copies_go_on_by_themselves(name, copying):
    _, scheduler = pair(name)
    for _ in range(4):
        advance(scheduler)
    # A pickled optimizer loses its wrapped step, and with it the warning that the order is wrong.
    other = copying(scheduler)
    other.optimizer = make_optimizer()
    other.optimizer.load_state_dict(copy.deepcopy(scheduler.optimizer.state_dict()))
    for _ in range(6):
        advance(scheduler, other)
        assert_same(scheduler, other)


def test_state_dicts_load_with_weights_only(tmp_path):
    for name in MAKERS:
        _, scheduler = pair(name)
        if name.startswith("MultiStepLR"):
            continue  # torch too keeps a Counter
        torch.save(scheduler.state_dict(), tmp_path / "state.pt")
        assert torch.load(tmp_path / "state.pt", weights_only=True) == scheduler.state_dict()


def test_the_optimizer_is_freed_at_once():
    """No reference cycle through the wrapped step."""
    for name in MAKERS:
        _, scheduler = pair(name)
        advance(scheduler)
        freed = weakref.ref(scheduler.optimizer)
        gc.disable()
        try:
            del scheduler
            assert freed() is None, name
        finally:
            gc.enable()


def test_a_long_decay_does_not_break_down():
    """Where gamma^t is 0, and a change from outside still decays."""
    expected, scheduler = pair("ExponentialLR")
    for s in (expected, scheduler):
        s.last_epoch = 10**6
        advance(s)
    assert_same(expected, scheduler)


def test_a_long_cosine_keeps_its_digits_on_the_way_up():
    """Where 1 - (1 + cos) / 2, for the height after the turn, would leave eleven."""
    expected, scheduler = (m.CosineAnnealingLR(make_optimizer(), 1000, 1e-3) for m in (theirs, ours))
    for _ in range(2000):
        advance(expected, scheduler)
        assert_same(expected, scheduler, exact=False)


def test_numpy_numbers():
    numpy = pytest.importorskip("numpy")
    for make in (
        lambda m, o: m.MultiStepLR(o, numpy.array([3, 7])),
        lambda m, o: m.ConstantLR(o, total_iters=numpy.int64(4)),
        lambda m, o: m.LinearLR(o, total_iters=numpy.int64(4)),
        lambda m, o: m.PolynomialLR(o, numpy.int64(4)),
        lambda m, o: m.CosineAnnealingLR(o, numpy.int64(4)),
        lambda m, o: m.StepLR(o, numpy.int64(4)),
    ):
        expected, scheduler = (make(m, make_optimizer()) for m in (theirs, ours))
        for _ in range(10):
            advance(expected, scheduler)
            assert_same(expected, scheduler, exact=False)
        assert numbers(scheduler._get_closed_form_lr()) == near(expected._get_closed_form_lr())


@given(
    st.sampled_from(["StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "PolynomialLR", "CosineAnnealingLR"]),
    st.floats(0.05, 1.0),
    st.integers(1, 30),
    st.floats(0.1, 3.0),
    st.integers(0, 100),
)
def test_any_options_equal_torch(name, gamma, length, power, seed):
    makers = {
        "StepLR": lambda m, o: m.StepLR(o, length, gamma),
        "MultiStepLR": lambda m, o: m.MultiStepLR(o, random.Random(seed).choices(range(40), k=length), gamma),
        "ConstantLR": lambda m, o: m.ConstantLR(o, gamma, length),
        "LinearLR": lambda m, o: m.LinearLR(o, gamma, min(1.0, power), length),
        "PolynomialLR": lambda m, o: m.PolynomialLR(o, length, power),
        "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, length, 0.04 * gamma),
    }
    schedulers = [makers[name](module, make_optimizer()) for module in (theirs, ours)]
    for _ in range(40):
        assert_same(*schedulers, exact(name))
        advance(*schedulers)


@pytest.mark.parametrize("name", ["StepLR", "ExponentialLR", "LinearLR", "OneCycleLR only down"])
def test_a_new_group_is_followed_where_torch_follows_it(name):
    if name.startswith("OneCycleLR"):
        for module in (theirs, ours):
            with pytest.raises(KeyError):
                grown(MAKERS[name](module, make_optimizer()))
        return
    expected, scheduler = (grown(MAKERS[name](module, make_optimizer())) for module in (theirs, ours))
    assert len(scheduler.get_last_lr()) == 3
    assert_same(expected, scheduler, exact(name))


def test_users_can_subclass():
    class Halves(ours.LRScheduler):
        def get_lr(self):
            return [lr / 2**self.last_epoch for lr in self.base_lrs]

    class Slower(ours.ExponentialLR):
        def get_lr(self):
            return [max(lr, 0.2) for lr in super().get_lr()]

    halves, slower = Halves(make_optimizer()), Slower(make_optimizer(), 0.5)
    for _ in range(3):
        advance(halves, slower)
    assert halves.get_last_lr() == [lr / 8 for lr in LRS]
    assert slower.get_last_lr() == [0.2, 0.2]


def test_momentum_is_cycled_against_the_rate():
    for optimizer_class, key in ((torch.optim.SGD, "momentum"), (torch.optim.Adam, "betas")):
        optimizer = make_optimizer(optimizer_class)
        scheduler = ours.OneCycleLR(optimizer, 1.0, 11, pct_start=0.5, base_momentum=0.5, max_momentum=0.9)
        seen = []
        for _ in range(11):
            value = optimizer.param_groups[0][key]
            seen.append((optimizer.param_groups[0]["lr"], value[0] if key == "betas" else value))
            advance(scheduler)
        # pct_start puts the peak between two steps.
        assert max(seen)[1] == min(momentum for _, momentum in seen) < 0.55
        assert seen[0][1] == 0.9 and seen[-1][1] == pytest.approx(0.9)


def test_every_restart_is_found():
    """torch's logarithm misses this one, and anneals to the end instead of starting again."""
    expected, scheduler = (m.CosineAnnealingWarmRestarts(make_optimizer(), 1, 3) for m in (theirs, ours))
    expected.step(121)
    scheduler.step(121)
    assert expected.get_last_lr() == [0.0, 0.0]
    assert scheduler.get_last_lr() == list(LRS)
    assert (scheduler.T_cur, scheduler.T_i) == (0, 243)


@pytest.mark.parametrize("epoch", [0.25, 2.5, 3.0, 7.75, 20.5])
@pytest.mark.parametrize("T_mult", [1, 2])
def test_restarts_at_fractional_epochs(epoch, T_mult):
    expected, scheduler = (m.CosineAnnealingWarmRestarts(make_optimizer(), 3, T_mult) for m in (theirs, ours))
    for s in (expected, scheduler):
        s.step(epoch)
    assert_same(expected, scheduler)
    for s in (expected, scheduler):
        s.step()
    assert_same(expected, scheduler)
    assert scheduler.last_epoch == expected.last_epoch


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_the_scale_of_a_cycle_is_kept_under_torchs_name(mode):
    """Private, but subclasses read it; a checkpoint does not hold it."""
    expected, scheduler = (m.CyclicLR(make_optimizer(), 0.1, 1.0, mode=mode, gamma=0.9) for m in (theirs, ours))
    for _ in range(2):
        assert [scheduler._scale_fn_ref(x) for x in (1, 2, 7)] == [expected._scale_fn_ref(x) for x in (1, 2, 7)]
        assert type(scheduler._scale_fn_ref) is type(expected._scale_fn_ref)
        assert scheduler.state_dict().keys() == expected.state_dict().keys()
        scheduler = pickle.loads(pickle.dumps(scheduler))
