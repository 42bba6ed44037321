"""Optimizers driven at random beside torch's, and transformations beside themselves as functions.

In whatever order steps are taken, groups are added and edited, parameters are frozen, and all is saved, loaded, copied
and pickled: the numbers are those of the twin to whom the same happens.
"""

import copy
import io
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from optree import tree_map
from trees import assert_equal

import optimfx as fx
import optimfx.optim as ours

KINDS = {
    "SGD": dict(lr=0.1, momentum=0.9, nesterov=True),
    "Adam": dict(lr=0.1, amsgrad=True, weight_decay=0.1),
    "AdamW": dict(lr=0.1),
    "RMSprop": dict(lr=0.01, centered=True, momentum=0.5),
    "Adagrad": dict(lr=0.1, lr_decay=0.1),
    "NAdam": dict(lr=0.01),
    "ASGD": dict(lr=0.1, t0=2.0),
    "Rprop": dict(lr=0.01),
    "Adadelta": dict(lr=1.0),
}
SHAPES = [(4, 3), (3,), (), (2, 1, 2)]

edits = st.tuples(st.sampled_from(["lr", "weight_decay"]), st.floats(0.001, 0.2))
way = st.sampled_from(["deepcopy", "pickle", "save"])


def copied(x, how):
    """A copy of parameters and optimizer together."""
    if how == "deepcopy":
        return copy.deepcopy(x)
    if how == "pickle":
        return pickle.loads(pickle.dumps(x))
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class BesideTorch(RuleBasedStateMachine):
    """A class and torch's."""

    @initialize(kind=st.sampled_from(sorted(KINDS)), flags=st.sampled_from([{}, {"foreach": False}, {"foreach": True}]))
    def begin(self, kind, flags):
        torch.manual_seed(0)
        self.kind = kind
        # torch's ASGD over lists computes its rates in float32, where its loop does in float64.
        self.options = {**KINDS[kind], **({} if kind == "ASGD" else flags)}
        self.classes = getattr(torch.optim, kind), getattr(ours, kind)
        params = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES[:2]]
        self.params = [[torch.nn.Parameter(p.clone()) for p in params] for _ in self.classes]
        self.optimizers = [cls(own, **self.options) for cls, own in zip(self.classes, self.params)]
        self.schedulers = []
        self.count = 0

    def each(self):
        return zip(self.params, self.optimizers)

    @rule(present=st.lists(st.booleans(), min_size=8, max_size=8))
    def step(self, present):
        self.count += 1
        torch.manual_seed(self.count)
        grads = [torch.randn_like(p) if there else None for p, there in zip(self.params[0], present)]
        for params, optimizer in self.each():
            for p, g in zip(params, grads):
                p.grad = None if g is None or not p.requires_grad else g.clone()
            optimizer.step()
        for p, q in zip(*self.params):
            torch.testing.assert_close(q, p, rtol=1e-11, atol=1e-11)

    @precondition(lambda self: len(self.params[0]) < 8 and not self.schedulers)
    @rule(shape=st.sampled_from(SHAPES), lr=st.floats(0.001, 0.2))
    def add_group(self, shape, lr):
        new = torch.randn(shape, dtype=torch.float64)
        for params, optimizer in self.each():
            params.append(torch.nn.Parameter(new.clone()))
            optimizer.add_param_group({"params": [params[-1]], "lr": lr})

    @rule(edit=edits, place=st.integers(0, 7))
    def edit_group(self, edit, place):
        name, value = edit
        for optimizer in self.optimizers:
            group = optimizer.param_groups[place % len(optimizer.param_groups)]
            if name in group:
                group[name] = value

    @rule(place=st.integers(0, 7), trains=st.booleans())
    def freeze(self, place, trains):
        for params in self.params:
            params[place % len(params)].requires_grad_(trains)

    @rule()
    def reload(self):
        """A new optimizer of the same groups, from the checkpoint."""
        made = []
        for cls, optimizer in zip(self.classes, self.optimizers):
            groups = [{"params": list(group["params"])} for group in optimizer.param_groups]
            new = cls(groups, **self.options)
            new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            made.append(new)
        self.optimizers, self.schedulers = made, []

    @rule()
    def take_each_others_checkpoint(self):
        theirs, own = (copy.deepcopy(optimizer.state_dict()) for optimizer in self.optimizers)
        self.optimizers[1].load_state_dict(theirs)
        self.optimizers[0].load_state_dict(own)

    @precondition(lambda self: not self.schedulers)
    @rule(how=way)
    def copy_all(self, how):
        pairs = [copied([params, optimizer], how) for params, optimizer in self.each()]
        self.params, self.optimizers = (list(column) for column in zip(*pairs))

    @precondition(lambda self: not self.schedulers)
    @rule(gamma=st.floats(0.5, 0.99))
    def schedule(self, gamma):
        modules = torch.optim.lr_scheduler, ours.lr_scheduler
        self.schedulers = [m.ExponentialLR(optimizer, gamma) for m, optimizer in zip(modules, self.optimizers)]

    @precondition(lambda self: self.schedulers and self.count)
    @rule()
    def step_schedulers(self):
        for scheduler in self.schedulers:
            scheduler.step()

    @rule(value=st.sampled_from([torch.nan, torch.inf]))
    def fail(self, value):
        """A step that raises, in a hook before it, changes nothing."""

        def refuse(optimizer, args, kwargs):
            raise ArithmeticError

        for params, optimizer in self.each():
            before = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
            handle = optimizer.register_step_pre_hook(refuse)
            with pytest.raises(ArithmeticError):
                optimizer.step()
            handle.remove()
            assert_equal([p.detach() for p in params], before[0])
            assert_equal(optimizer.state_dict(), before[1])


TRANSFORMS = {
    "clip, adamw": fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(0.1)),
    "injected": fx.chain(fx.clip_by_value(0.5), fx.inject_hyperparams(fx.adam)(lr=0.1)),
    "scheduled": fx.sgd(lr=lambda step: 0.1 / (step + 1), momentum=0.9),
    "accumulated": fx.multi_steps(fx.rmsprop(0.1), 2, should_skip_update_fn=fx.skip_not_finite),
    "guarded": fx.apply_if_finite(fx.chain(fx.scale_by_adam(), fx.masked(fx.scale(2.0), True), fx.scale_by_lr(0.1)), 2),
}


class BesideItself(RuleBasedStateMachine):
    """A transformation as an optimizer, and as functions in place and out of place."""

    @initialize(kind=st.sampled_from(sorted(TRANSFORMS)))
    def begin(self, kind):
        torch.manual_seed(0)
        self.tx = TRANSFORMS[kind]
        values = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
        self.params = [torch.nn.Parameter(p.clone()) for p in values]
        self.optimizer = ours.TransformOptimizer(self.params, self.tx)
        self.runs = [[[p.clone() for p in values], self.tx.init(values)] for _ in range(2)]
        self.count = 0

    @rule(present=st.lists(st.booleans(), min_size=4, max_size=4), bad=st.sampled_from([None, None, None, torch.nan]))
    def step(self, present, bad):
        self.count += 1
        torch.manual_seed(self.count)
        grads = [torch.randn_like(p) if there else None for p, there in zip(self.params, present)]
        if not any(present):
            return  # the optimizer takes no step
        if bad is not None and "apply_if_finite" in repr(self.tx):
            next(g for g in grads if g is not None).fill_(bad)
        for p, g in zip(self.params, grads):
            p.grad = None if g is None else g.clone()
        self.optimizer.step()
        for run, inplace in zip(self.runs, (False, True)):
            given = [None if g is None else g.clone() for g in grads]
            run[:] = fx.step(self.tx, given, run[1], run[0], inplace=inplace)
        for params, _ in self.runs:
            assert_equal([p.detach() for p in self.params], params, rtol=1e-12, atol=1e-12)

    @rule(how=way)
    def move(self, how):
        """State and parameters are plain data."""
        self.params, self.optimizer = copied([self.params, self.optimizer], "deepcopy")
        self.runs = [copied(run, how) for run in self.runs]

    @rule()
    def separate(self):
        """Each leaf by itself: no two share a tensor or memory."""
        self.runs = [tree_map(torch.clone, run) for run in self.runs]

    @rule()
    def reload(self):
        new = ours.TransformOptimizer(self.params, self.tx)
        new.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        self.optimizer = new

    @rule()
    def go_on_from_the_function(self):
        """The state of the one is that of the other."""
        if self.count and any(p.grad is not None for p in self.params):
            assert_equal(self.optimizer.state_of(), self.runs[0][1], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("machine", [BesideTorch, BesideItself], ids=lambda machine: machine.__name__)
def test_whatever_happens_to_both_the_numbers_agree(machine):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=20, derandomize=True, deadline=None)
    )
