"""accelerate.Accelerator drives our classes as it does torch's."""

import pytest
import torch
from classes import CLASSES
from twins import DENSE, TWINS, assert_same, both, by_class, client, options, trained

import optimfx as fx
import optimfx.optim as optim

accelerate = client("accelerate")

BATCHES = 8


@pytest.fixture(autouse=True)
def _afresh():
    """Reset the state that accelerators share."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def model():
    """A model of matrices alone, which every class can step."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Tanh(), torch.nn.Linear(4, 2, bias=False))


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)


class Run:
    """An optimizer and a scheduler under an accelerator, which accumulates the gradients of two batches."""

    def __init__(self, make, kind=optim, scaler=None):
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        self.accelerator.scaler = scaler  # of its own accord it has one on a GPU only
        module = model()
        optimizer = make(module.parameters())
        cycles = not {"momentum", "betas"}.isdisjoint(optimizer.defaults)
        scheduler = kind.lr_scheduler.OneCycleLR(optimizer, 0.1, BATCHES // 2 + 1, cycle_momentum=cycles)
        data = torch.utils.data.DataLoader(torch.linspace(-2, 2, 2 * BATCHES * 3).reshape(-1, 3), batch_size=2)
        self.module, self.optimizer, self.scheduler, self.data = self.accelerator.prepare(
            module, optimizer, scheduler, data
        )

    def train(self, first=0, last=BATCHES, overflow=None):
        """On the batches of this range, with a loss that overflows at one of them; which steps were skipped."""
        skipped = []
        for batch, x in enumerate(self.data):
            if not first <= batch < last:
                continue
            with self.accelerator.accumulate(self.module):
                loss = self.module(x).square().mean() * (float("inf") if batch == overflow else 1.0)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.module.parameters(), 0.01)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                skipped.append(self.accelerator.optimizer_step_was_skipped)
        return skipped

    @property
    def result(self):
        return trained(self.module, self.optimizer)


@by_class(TWINS)
def test_a_prepared_optimizer(info):
    """With accumulation, clipping, and a schedule of the rate and, where there is one, the momentum."""
    theirs, ours = (
        Run(lambda params, cls=cls: cls(params, **options(info)), kind)
        for cls, kind in zip(both(info), (torch.optim, optim))
    )
    for run in (theirs, ours):
        run.train()
    assert ours.result[1]["param_groups"][0]["lr"] < 1e-6
    assert_same(theirs.result, ours.result, info)


@by_class(TWINS)
def test_a_step_that_overflows_is_skipped(info):
    """By the accelerator's patch of ``step``, through which its scaler calls the optimizer; the schedule waits."""
    theirs, ours = (
        Run(lambda params, cls=cls: cls(params, **options(info)), kind, scaler())
        for cls, kind in zip(both(info), (torch.optim, optim))
    )
    for run in (theirs, ours):
        assert run.train(overflow=3) == [False, True, False, False]
        assert run.accelerator.scaler.get_scale() == 4.0 / 2 * 2
    assert ours.scheduler.scheduler.last_epoch == 3
    assert_same(theirs.result, ours.result, info)


OWN = fx.chain(fx.monitor(), fx.inject_hyperparams(fx.lion)(lr=0.1), fx.kahan())
MAKERS = {info.optim_cls.__name__: CLASSES[info.optim_cls] for info in DENSE}
MAKERS["TransformOptimizer"] = lambda params: optim.TransformOptimizer(params, OWN)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_saved_state_goes_on(make, tmp_path):
    """In another accelerator, bit for bit as without an interruption; its scaler too."""
    whole, before = (Run(make, scaler=scaler()) for _ in range(2))
    whole.train()
    before.train(last=BATCHES // 2)
    before.accelerator.save_state(tmp_path)
    after = Run(make, scaler=scaler())
    after.accelerator.load_state(tmp_path)
    after.train(first=BATCHES // 2)
    assert_same(whole.result, after.result)
    assert after.accelerator.scaler.state_dict() == whole.accelerator.scaler.state_dict()


def test_a_scheduler_of_a_prepared_optimizer():
    """Ours takes the wrapper for an optimizer, as torch's does."""
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = accelerate.Accelerator(cpu=True).prepare(optim.SGD([p], lr=1.0))
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        p.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert p == 1 - 1 - 0.5 - 0.25
    assert optimizer.param_groups[0]["lr"] == 0.125
