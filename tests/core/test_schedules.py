"""Schedules against torch.optim.lr_scheduler, and as functions of tensors."""

import warnings

import optax
import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers

from optimfx import schedules

STEPS = 200
BASE = 0.1


def half(step):
    return 0.95**step


def quarter(step):
    return 0.97 + 0.02 * (step % 2)


# ours, torch's from an optimizer whose lr is BASE
TWINS = {
    "constant": (schedules.constant(BASE, 0.3, 7), lambda o: torch_schedulers.ConstantLR(o, 0.3, 7)),
    "constant by default": (schedules.constant(BASE), torch_schedulers.ConstantLR),
    "linear": (schedules.linear(BASE, 0.2, 0.9, 31), lambda o: torch_schedulers.LinearLR(o, 0.2, 0.9, 31)),
    "linear by default": (schedules.linear(BASE), torch_schedulers.LinearLR),
    "step_decay": (schedules.step_decay(BASE, 30), lambda o: torch_schedulers.StepLR(o, 30)),
    "multi_step": (
        schedules.multi_step(BASE, [20, 50, 51, 150], 0.3),
        lambda o: torch_schedulers.MultiStepLR(o, [20, 50, 51, 150], 0.3),
    ),
    "multi_step at one milestone twice": (
        schedules.multi_step(BASE, [20, 20], 0.3),
        lambda o: torch_schedulers.MultiStepLR(o, [20, 20], 0.3),
    ),
    "exponential": (schedules.exponential(BASE, 0.97), lambda o: torch_schedulers.ExponentialLR(o, 0.97)),
    "polynomial": (schedules.polynomial(BASE, 150, 1.7), lambda o: torch_schedulers.PolynomialLR(o, 150, 1.7)),
    "polynomial by default": (schedules.polynomial(BASE), torch_schedulers.PolynomialLR),
    "cosine_annealing": (
        schedules.cosine_annealing(BASE, 60, 0.01),
        lambda o: torch_schedulers.CosineAnnealingLR(o, 60, 0.01),
    ),
    "cosine_annealing_warm_restarts": (
        schedules.cosine_annealing_warm_restarts(BASE, 7, 1, 0.01),
        lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 7, 1, 0.01),
    ),
    "cosine_annealing_warm_restarts, longer each time": (
        schedules.cosine_annealing_warm_restarts(BASE, 3, 2),
        lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 3, 2),
    ),
    "cosine_annealing_warm_restarts, three times as long": (
        schedules.cosine_annealing_warm_restarts(BASE, 5, 3),
        lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 5, 3),
    ),
    **{
        f"cyclic {mode}": (
            schedules.cyclic(0.01, BASE, 13, 8, mode, 0.98),
            lambda o, mode=mode: torch_schedulers.CyclicLR(o, 0.01, BASE, 13, 8, mode, 0.98, cycle_momentum=False),
        )
        for mode in ("triangular", "triangular2", "exp_range")
    },
    "cyclic by a function": (
        schedules.cyclic(0.01, BASE, 13, scale_fn=half, scale_mode="iterations"),
        lambda o: torch_schedulers.CyclicLR(
            o, 0.01, BASE, 13, scale_fn=half, scale_mode="iterations", cycle_momentum=False
        ),
    ),
    **{
        f"one_cycle {strategy}{' in three phases' * three_phase}": (
            schedules.one_cycle(BASE, STEPS, 0.3, strategy, 20.0, 1e3, three_phase),
            lambda o, strategy=strategy, three_phase=three_phase: torch_schedulers.OneCycleLR(
                o,
                BASE,
                STEPS,
                pct_start=0.3,
                anneal_strategy=strategy,
                div_factor=20.0,
                final_div_factor=1e3,
                three_phase=three_phase,
                cycle_momentum=False,
            ),
        )
        for strategy in ("cos", "linear")
        for three_phase in (False, True)
    },
    "lambda_schedule": (schedules.lambda_schedule(BASE, half), lambda o: torch_schedulers.LambdaLR(o, half)),
    "multiplicative": (
        schedules.multiplicative(BASE, quarter, STEPS),
        lambda o: torch_schedulers.MultiplicativeLR(o, quarter),
    ),
    "join": (
        schedules.join(
            [schedules.constant(BASE, 0.1, 20), schedules.exponential(BASE, 0.9), schedules.cosine_annealing(BASE, 9)],
            [20, 60],
        ),
        lambda o: torch_schedulers.SequentialLR(
            o,
            [
                torch_schedulers.ConstantLR(o, 0.1, 20),
                torch_schedulers.ExponentialLR(o, 0.9),
                torch_schedulers.CosineAnnealingLR(o, 9),
            ],
            [20, 60],
        ),
    ),
}
OTHERS = {
    "warmup_cosine": schedules.warmup_cosine(BASE, 20, 150, 0.01, 0.001),
    "warmup_cosine without warm-up": schedules.warmup_cosine(BASE, 0, 150, 0.01, 0.001),
    "warmup_stable_decay": schedules.warmup_stable_decay(BASE, 20, 100, 50, 0.01, 0.001),
    "warmup_stable_decay that is decay alone": schedules.warmup_stable_decay(BASE, 0, 0, 50, 0.01, 0.001),
    "warmup_stable_decay that falls at once": schedules.warmup_stable_decay(BASE, 20, 10, 0),
    "join of a schedule and a number": schedules.join([schedules.linear(BASE, 0.1, 1.0, 20), BASE], [20]),
    "join of numbers": schedules.join([BASE, 0, torch.tensor(0.5, dtype=torch.float64)], [20, 30]),
}
EVERY = {name: ours for name, (ours, _) in TWINS.items()} | OTHERS


def torchs(make):
    """The learning rates that torch's scheduler gives, step by step, and by its closed form where it has one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=BASE)
    scheduler = make(optimizer)
    chained, closed = [], []
    for step in range(STEPS):
        chained.append(optimizer.param_groups[0]["lr"])
        if hasattr(scheduler, "_get_closed_form_lr"):
            scheduler.last_epoch = step
            closed.append(scheduler._get_closed_form_lr()[0])
        optimizer.step()
        scheduler.step()
    return chained, closed


@pytest.mark.parametrize("name", TWINS)
def test_equals_torch_over_200_steps(name):
    """torch's closed form, where it has one, exactly; its chained form, which gathers a rounding or more each step,
    within 1e-12 (and where a cosine comes down to 0, of the base)."""
    ours, make = TWINS[name]
    values = [ours(step) for step in range(STEPS)]
    chained, closed = torchs(make)
    assert values == pytest.approx(chained, rel=1e-12, abs=1e-12 * BASE)
    if closed:
        assert values == closed


@pytest.mark.parametrize("name", EVERY)
def test_on_tensors_as_on_numbers(name):
    """0-d tensors of any dtype, under vmap: float64 results within a few roundings of the numbers'."""
    schedule = EVERY[name]
    expected = torch.tensor([schedule(step) for step in range(STEPS)], dtype=torch.float64)
    for steps in (torch.arange(STEPS), torch.arange(STEPS, dtype=torch.float32)):
        values = torch.vmap(schedule)(steps)
        torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", EVERY)
def test_compiles_once_for_all_steps(name, fresh_compiler):
    schedule = EVERY[name]
    compiled = torch.compile(schedule, fullgraph=True, backend="eager")
    for step in range(8):
        assert compiled(torch.tensor(step)).item() == pytest.approx(schedule(step), rel=1e-13, abs=1e-15)
    assert fresh_compiler["stats"]["unique_graphs"] == 1


def test_gradients_and_vmap_reach_the_values():
    def value(lr):
        return schedules.warmup_cosine(lr, 2, 10)(torch.tensor(1.0))

    lr = torch.tensor(0.3, dtype=torch.float64)
    assert torch.func.grad(value)(lr) == 0.5
    lrs = torch.tensor([0.1, 0.2], dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(value)(lrs), lrs / 2)


def test_restarts_are_found_exactly_after_many_steps():
    """Where the logarithm of the step may round to either side of a restart."""
    for first, factor in [(1, 2), (3, 2), (7, 3), (10, 10)]:
        schedule = schedules.cosine_annealing_warm_restarts(1.0, first, factor)
        for cycle in range(1, 14):
            begin = first * (factor**cycle - 1) // (factor - 1)
            assert schedule(begin) == 1.0
            assert schedule(torch.tensor(begin)) == 1.0
            assert schedule(begin - 1) < 1.0 or first * factor ** (cycle - 1) == 1


def test_parts_of_no_steps():
    values = [EVERY["warmup_cosine without warm-up"](step) for step in range(STEPS)]
    theirs = optax.warmup_cosine_decay_schedule(0.01, BASE, 0, 150, 0.001)
    assert values == pytest.approx([float(theirs(step)) for step in range(STEPS)], abs=1e-6 * BASE)  # float32
    falling = [EVERY["warmup_stable_decay that is decay alone"](step) for step in (0, 25, 50, 60)]
    assert falling == pytest.approx([BASE, (BASE + 0.001) / 2, 0.001, 0.001])
    assert [EVERY["warmup_stable_decay that falls at once"](step) for step in (10, 29, 30)] == [BASE / 2, BASE, 0]


def test_a_number_in_a_join_stays():
    warmed = EVERY["join of a schedule and a number"]
    assert [warmed(step) for step in (0, 20, 100)] == pytest.approx([BASE / 10, BASE, BASE])
    assert [EVERY["join of numbers"](step) for step in (0, 19, 20, 29, 30)] == [BASE, BASE, 0, 0, 0.5]


def test_one_cycle_stays_at_its_last_value():
    schedule = schedules.one_cycle(1.0, 10)
    assert schedule(9) == schedule(10) == schedule(1000) == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 1.0])
def test_one_cycle_with_an_empty_phase(pct_start):
    schedule = schedules.one_cycle(1.0, 10, pct_start)
    assert all(0 < schedule(step) <= 1 for step in range(10))


def test_torch_has_no_scheduler_that_is_missing_here():
    """Every class of torch.optim.lr_scheduler that is a function of the step has its schedule."""
    named = {
        "ConstantLR": "constant",
        "LinearLR": "linear",
        "StepLR": "step_decay",
        "MultiStepLR": "multi_step",
        "ExponentialLR": "exponential",
        "PolynomialLR": "polynomial",
        "CosineAnnealingLR": "cosine_annealing",
        "CosineAnnealingWarmRestarts": "cosine_annealing_warm_restarts",
        "CyclicLR": "cyclic",
        "OneCycleLR": "one_cycle",
        "LambdaLR": "lambda_schedule",
        "MultiplicativeLR": "multiplicative",
        "SequentialLR": "join",
    }
    # ReduceLROnPlateau is a function of a metric, ChainedScheduler a product of schedules.
    others = {"LRScheduler", "ReduceLROnPlateau", "ChainedScheduler"}
    assert set(torch_schedulers.__all__) == set(named) | others
    assert set(named.values()) <= set(schedules.__all__)


ERRORS = {
    "total_iters must be positive; got 0": lambda: schedules.linear(0.1, total_iters=0),
    "step_size must be positive; got -1": lambda: schedules.step_decay(0.1, -1),
    "T_0 must be positive; got 0": lambda: schedules.cosine_annealing_warm_restarts(0.1, 0),
    "T_mult must be at least 1; got 0": lambda: schedules.cosine_annealing_warm_restarts(0.1, 1, 0),
    "mode must be one of ['triangular', 'triangular2', 'exp_range']; got 'x'": lambda: schedules.cyclic(
        0.1, 1.0, mode="x"
    ),
    "scale_mode must be 'cycle' or 'iterations'; got 'x'": lambda: schedules.cyclic(
        0.1, 1.0, scale_fn=half, scale_mode="x"
    ),
    "anneal_strategy must be one of ['cos', 'linear']; got 'x'": lambda: schedules.one_cycle(
        0.1, 10, anneal_strategy="x"
    ),
    "pct_start must be in [0, 1]; got 2": lambda: schedules.one_cycle(0.1, 10, pct_start=2),
    "warmup_steps must be in [0, 10), as total_steps counts them; got -1": lambda: schedules.warmup_cosine(0.1, -1, 10),
    "stable_steps must not be negative; got -1": lambda: schedules.warmup_stable_decay(0.1, 1, -1, 1),
    "warmup_steps must be in [0, 10), as total_steps counts them; got 10": lambda: schedules.warmup_cosine(0.1, 10, 10),
    "2 schedules need 1 milestones; got []": lambda: schedules.join([half, half], []),
    "milestones must be strictly increasing; got [3, 3]": lambda: schedules.join([half, half, half], [3, 3]),
}


@pytest.mark.parametrize("message", ERRORS)
def test_schedules_refuse_bad_arguments(message):
    with pytest.raises(ValueError) as error, warnings.catch_warnings():
        ERRORS[message]()
    assert str(error.value) == message + "."
