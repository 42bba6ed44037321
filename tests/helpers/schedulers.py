"""Pairs of a scheduler of torch.optim and its namesake here, for the tests that step them side by side."""

import pytest
import torch
import torch.optim.lr_scheduler as theirs

import optimfx.optim.lr_scheduler as ours

LRS = (0.05, 0.4)
STEPS = 60


class Halving:
    """A callable object, whose attributes a state_dict saves."""

    def __init__(self, every):
        self.every = every

    def __call__(self, step):
        return 0.5 ** (step // self.every)


def slower(step):
    return 1 / (1 + step)


# name: scheduler of a module, an optimizer, and keyword arguments for every scheduler.
MAKERS = {
    "LambdaLR": lambda m, o, **k: m.LambdaLR(o, slower, **k),
    "LambdaLR per group": lambda m, o, **k: m.LambdaLR(o, [slower, Halving(4)], **k),
    "MultiplicativeLR": lambda m, o, **k: m.MultiplicativeLR(o, [Halving(9), lambda step: 0.95], **k),
    "StepLR": lambda m, o, **k: m.StepLR(o, 3, **k),
    "StepLR every step": lambda m, o, **k: m.StepLR(o, 1, 0.7, **k),
    "MultiStepLR": lambda m, o, **k: m.MultiStepLR(o, [9, 2, 9, 30], 0.3, **k),
    "MultiStepLR from the first step": lambda m, o, **k: m.MultiStepLR(o, (0, 5), **k),
    "ConstantLR": lambda m, o, **k: m.ConstantLR(o, **k),
    "ConstantLR of no steps": lambda m, o, **k: m.ConstantLR(o, 0.3, 0, **k),
    "LinearLR": lambda m, o, **k: m.LinearLR(o, **k),
    "LinearLR down": lambda m, o, **k: m.LinearLR(o, 0.9, 0.2, 13, **k),
    "LinearLR to 0": lambda m, o, **k: m.LinearLR(o, 1.0, 0.0, 20, **k),
    "LinearLR of no steps": lambda m, o, **k: m.LinearLR(o, total_iters=0, **k),
    "ExponentialLR": lambda m, o, **k: m.ExponentialLR(o, 0.9, **k),
    "PolynomialLR": lambda m, o, **k: m.PolynomialLR(o, 17, 1.7, **k),
    "PolynomialLR by default": lambda m, o, **k: m.PolynomialLR(o, **k),
    "PolynomialLR of no steps": lambda m, o, **k: m.PolynomialLR(o, 0, **k),
    "CosineAnnealingLR": lambda m, o, **k: m.CosineAnnealingLR(o, 11, **k),
    "CosineAnnealingLR above a floor": lambda m, o, **k: m.CosineAnnealingLR(o, 7, 0.01, **k),
    "CosineAnnealingLR of one step": lambda m, o, **k: m.CosineAnnealingLR(o, 1, **k),
    "CosineAnnealingWarmRestarts": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 7, **k),
    "CosineAnnealingWarmRestarts longer": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 3, 2, 0.001, **k),
    "CyclicLR": lambda m, o, **k: m.CyclicLR(o, 0.01, 0.3, 5, **k),
    "CyclicLR triangular2": lambda m, o, **k: m.CyclicLR(o, [0.01, 0.1], [0.3, 0.5], 7, 4, "triangular2", **k),
    "CyclicLR exp_range": lambda m, o, **k: m.CyclicLR(
        o, 0.01, 0.3, 6, 9, "exp_range", 0.97, base_momentum=[0.7, 0.6], max_momentum=[0.9, 0.8], **k
    ),
    "CyclicLR by a function": lambda m, o, **k: m.CyclicLR(
        o, 0.01, 0.3, 6, scale_fn=Halving(9), scale_mode="iterations", cycle_momentum=False, **k
    ),
    "CyclicLR sawtooth": lambda m, o, **k: m.CyclicLR(o, 0.01, 0.3, 6, 0, **k),
    "OneCycleLR": lambda m, o, **k: m.OneCycleLR(o, 0.5, STEPS, **k),
    "OneCycleLR linear": lambda m, o, **k: m.OneCycleLR(o, [0.5, 1.0], STEPS, anneal_strategy="linear", **k),
    "OneCycleLR three phases": lambda m, o, **k: m.OneCycleLR(
        o, 0.5, epochs=6, steps_per_epoch=10, three_phase=True, base_momentum=0.5, **k
    ),
    "OneCycleLR only down": lambda m, o, **k: m.OneCycleLR(o, 0.5, STEPS, pct_start=0.0, cycle_momentum=False, **k),
}
# Whose closed forms divide by 0 in torch.
DIVIDED_BY_ZERO = ("LinearLR of no steps", "PolynomialLR of no steps")
# Where each step multiplies by a ratio of two values of the schedule, instead of torch's own expression for it.
ROUNDED = ("LinearLR", "PolynomialLR", "CosineAnnealingLR")

every_maker = pytest.mark.parametrize("name", MAKERS)
both_optimizers = pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])


def make_optimizer(optimizer_class=torch.optim.SGD, lrs=LRS, **options):
    if optimizer_class is torch.optim.SGD:
        options.setdefault("momentum", 0.5)
    groups = [{"params": [torch.zeros((), requires_grad=True)], "lr": lr} for lr in lrs]
    return optimizer_class(groups, **options)


def pair(name, optimizer_class=torch.optim.SGD, lrs=LRS, **options):
    """torch's scheduler and ours, each on an optimizer of its own."""
    lrs = [[lr.clone() if isinstance(lr, torch.Tensor) else lr for lr in lrs] for _ in range(2)]
    return [
        MAKERS[name](module, make_optimizer(optimizer_class, lr), **options) for module, lr in zip((theirs, ours), lrs)
    ]


def advance(*schedulers):
    for scheduler in schedulers:
        scheduler.optimizer.step()
        scheduler.step()


def hypers(optimizer):
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def numbers(rates):
    return [float(rate) for rate in rates]


def near(rates):
    """Within a few roundings for each of the steps; where a rate comes down to 0, of the base."""
    return pytest.approx(numbers(rates), rel=1e-12, abs=1e-13 * max(LRS))


def assert_same(expected, scheduler, exact=True):
    """The same rates, last rates, and everything else in the groups."""
    groups, expected_groups = hypers(scheduler.optimizer), hypers(expected.optimizer)
    if exact:
        assert groups == expected_groups
        assert scheduler.get_last_lr() == expected.get_last_lr()
        return
    assert numbers(group.pop("lr") for group in groups) == near(group.pop("lr") for group in expected_groups)
    assert numbers(scheduler.get_last_lr()) == near(expected.get_last_lr())
    assert groups == expected_groups


def exact(name):
    return not name.startswith(ROUNDED)


def grown(scheduler, *metric):
    """A group is added after the scheduler was made; then two steps."""
    scheduler.optimizer.add_param_group({"params": [torch.zeros((), requires_grad=True)], "lr": 0.7})
    for _ in range(2):
        scheduler.optimizer.step()
        scheduler.step(*metric)
    return scheduler


def messages(record):
    return [str(w.message) for w in record]
