"""The loop of torch.amp, with a GradScaler, drives our classes as it does torch's."""

import io

import pytest
import torch
from classes import CLASSES, EVERY, assert_same_value
from twins import TWINS, assert_same, both, by_class, options, trained

import optimfx as fx
import optimfx.optim as optim

STEPS = 6
OVERFLOWS = 3  # the step at which the loss does


class Run:
    """A model of matrices alone, which every class can step; or an embedding with sparse gradients."""

    def __init__(self, make, sparse=False, enabled=True):
        torch.manual_seed(0)
        self.sparse = sparse
        head = torch.nn.Linear(3, 4, bias=False).requires_grad_(not sparse)
        self.module = torch.nn.Sequential(torch.nn.Embedding(5, 3, sparse=sparse), torch.nn.Tanh(), head)
        self.optimizer = make([p for p in self.module.parameters() if p.requires_grad])
        # A power of two, by which nothing is rounded.
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2, enabled=enabled)

    def train(self, first=0, last=STEPS):
        for step in range(first, last):
            self.optimizer.zero_grad()
            loss = self.module(torch.tensor([0, 1, 3, 1]) + step % 2).square().mean()
            self.scaler.scale(loss * (float("inf") if step == OVERFLOWS else 1.0)).backward()
            self.scaler.unscale_(self.optimizer)
            if not self.sparse:  # whose norms torch does not take
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), 0.01)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return self

    @property
    def result(self):
        return trained(self.module, self.optimizer)

    def state_dicts(self):
        return [part.state_dict() for part in (self.module, self.optimizer, self.scaler)]

    def load(self, state_dicts):
        for part, state_dict in zip((self.module, self.optimizer, self.scaler), state_dicts):
            part.load_state_dict(state_dict)
        return self


@by_class(TWINS)
def test_gradients_that_are_unscaled_and_clipped(info):
    theirs, ours = (Run(lambda params, cls=cls: cls(params, **options(info))).train() for cls in both(info))
    # It has grown twice, and between halved.
    assert theirs.scaler.state_dict() == ours.scaler.state_dict()
    assert ours.scaler.get_scale() == 2.0**11
    assert_same(theirs.result, ours.result, info)


@by_class([info for info in TWINS if "fused" in info.supported_impls])
def test_grad_scaler_with_a_fused_step(info):
    """Which is called on an overflow too, and leaves it out. To 4 ulp a step, as torch's kernel differs from its loop;
    what is close to 0 by cancellation, to 4 ulp of the gradient's norm, 0.01."""
    theirs, ours = (Run(lambda params, cls=cls: cls(params, fused=True)).train() for cls in both(info))
    ulps = 4 * STEPS * torch.finfo(torch.float32).eps
    assert_same_value(theirs.result, ours.result, rtol=ulps, atol=ulps * 0.01)


OWN = fx.chain(fx.monitor(), fx.inject_hyperparams(fx.lion)(lr=0.1), fx.kahan())
MAKERS = {info.optim_cls.__name__: CLASSES[info.optim_cls] for info in EVERY if not info.step_requires_closure}
MAKERS["TransformOptimizer"] = lambda params: optim.TransformOptimizer(params, OWN)
every = pytest.mark.parametrize("name", MAKERS)


def run(name, **how):
    return Run(MAKERS[name], sparse=name == "SparseAdam", **how)


@every
def test_scaling_leaves_no_trace(name):
    """The run is the one without a scaler and without the step that overflows. No scaler steps with a closure, though,
    so there is none for L-BFGS."""
    scaled, plain = run(name).train(), run(name, enabled=False)
    plain.train(last=OVERFLOWS).train(first=OVERFLOWS + 1)
    assert scaled.scaler.get_scale() == 2.0**11
    assert_same(plain.result, scaled.result)


@every
def test_a_saved_run_goes_on(name):
    """Model, optimizer and scaler, through a file and the safe loader."""
    whole, half, resumed = (run(name) for _ in range(3))
    whole.train()
    file = io.BytesIO()
    torch.save(half.train(last=2).state_dicts(), file)
    file.seek(0)
    resumed.load(torch.load(file, weights_only=True)).train(first=2)
    assert_same(whole.result, resumed.result)
    assert whole.scaler.state_dict() == resumed.scaler.state_dict()
