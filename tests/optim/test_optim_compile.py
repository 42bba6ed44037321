"""``optimizer.step()`` inside torch.compile: one graph, without breaks or recompilation for another learning rate."""

import gc
import weakref

import pytest
import torch
from classes import CLASSES, DB, EVERY, parameters
from versions import BEFORE_2_13

import optimfx.optim as optim
from optimfx.optim.classes.extra import FromFactory

DENSE = [CLASSES[i.optim_cls] for i in DB if not (i.step_requires_closure or i.only_supports_sparse_grads)]
INFO = {CLASSES[info.optim_cls]: info for info in EVERY}


def shapes(cls):
    """A matrix and, where the class takes it, a single number: each parameter takes as long to compile as the first."""
    return [p.shape for p in parameters(INFO[cls])][::2]


def gradients(*columns):
    for row in zip(*columns):
        grad = torch.randn_like(row[0])
        for p in row:
            p.grad = grad.clone()


def names(classes):
    return pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.__name__)


@names([optim.SGD, optim.Adam, optim.NAdam, optim.Muon, optim.Adafactor])
def test_one_graph_for_a_tensor_that_is_the_learning_rate(cls, fresh_compiler):
    """In float32: torch.compile (2.13) loses what is written to a 0-d float64 tensor of the host."""
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float32)) for shape in shapes(cls)]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    lr = torch.tensor(0.01, dtype=torch.float64)
    compiled, eager = cls(params, lr=lr), cls(others, lr=lr.clone())
    gradients(params, others)
    compiled.step()
    eager.step()
    step = torch.compile(lambda: compiled.step(), fullgraph=True, backend="eager")
    for i in range(4):
        for optimizer in (compiled, eager):
            optimizer.param_groups[0]["lr"].fill_(0.01 / (i + 1))
        gradients(params, others)
        step()
        eager.step()
        for p, q in zip(params, others):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    assert fresh_compiler["stats"]["unique_graphs"] == 1


@pytest.mark.thorough(lambda cls: cls in FromFactory.__subclasses__())
@names(DENSE + FromFactory.__subclasses__())
def test_one_graph_for_every_number_that_is_the_learning_rate(cls, fresh_compiler):
    """Begun eagerly, so that the state is there: all further steps are one graph without a break.

    The numbers are written to the groups, as schedulers do it.
    """
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float32)) for shape in shapes(cls)]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    compiled, eager = cls(params, lr=0.01), cls(others, lr=0.01)
    gradients(params, others)
    compiled.step()
    eager.step()
    step = torch.compile(lambda: compiled.step(), fullgraph=True, backend="eager")
    for i in range(4):
        for optimizer in (compiled, eager):
            optimizer.param_groups[0]["lr"] = 0.01 / (i + 1)
        gradients(params, others)
        step()
        eager.step()
        for p, q in zip(params, others):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    # Before 2.13, the compiler takes the first number that it reads in a group for a constant.
    assert fresh_compiler["stats"]["unique_graphs"] == (2 if BEFORE_2_13 else 1)


def test_a_compiled_step_has_every_group():
    """One that is added later, too; and one whose hyperparameters the algorithm refuses is not passed over."""
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = optim.Adam(params[:1], lr=0.1)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for p in params:
        p.grad = torch.ones(3)
    step()
    optimizer.add_param_group({"params": params[1:], "lr": 0.2})
    step()
    torch.testing.assert_close([p.detach() for p in params], [torch.full((3,), 0.8)] * 2)
    (w,) = refused = [torch.nn.Parameter(torch.ones(2, 2))]
    w.grad = torch.ones(2, 2)
    muon = optim.Muon(refused, ns_steps=-1)
    with pytest.raises(Exception, match="ns_steps"):
        torch.compile(lambda: muon.step(), backend="eager")()
    assert torch.equal(w.detach(), torch.ones(2, 2))


def failed_load(optimizer, spare):
    """The rate of a checkpoint is taken."""
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 0.5
    with optimizer.register_load_state_dict_post_hook(lambda optimizer: 1 / 0), pytest.raises(ZeroDivisionError):
        optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["lr"] = 0.25


def replaced(optimizer, spare):
    optimizer.param_groups = [{**group, "lr": 0.5} for group in optimizer.param_groups]


def appended(optimizer, spare):
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [spare], "lr": 0.5})


def taken_out(optimizer, spare):
    del optimizer.param_groups[0]


def emptied(optimizer, spare):
    optimizer.param_groups[0]["params"].pop()


cannot_compare = pytest.mark.skipif(BEFORE_2_13, reason="the compiler of this torch cannot tell one group from another")
EDITS = [failed_load, replaced, appended, pytest.param(taken_out, marks=cannot_compare), emptied]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_compiled_step_sees_the_groups_as_they_are(edit, fresh_compiler):
    """Edited by hand, when nothing is compiled again any more: neither for other gradients nor for a second group."""
    runs = []
    for compiled in (False, True):
        params = [torch.nn.Parameter(torch.full((3,), float(i))) for i in range(3)]
        optimizer = optim.Adam([{"params": params[:1], "lr": 0.1}, {"params": params[1:2], "lr": 0.2}])
        step = optimizer.step
        if compiled:
            step = torch.compile(lambda optimizer=optimizer: optimizer.step(), fullgraph=True, backend="eager")
        for i in range(5):
            if i == 4:
                assert fresh_compiler["stats"]["unique_graphs"] == (2 if compiled else 0)  # the first makes the state
                edit(optimizer, params[2])
            for p in params:
                p.grad = torch.ones(3)
            step()
        runs.append([p.detach() for p in params])
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-6, atol=1e-6)


@names([optim.SGD, optim.Adam])
def test_a_compiled_learning_rate_is_no_constant(cls, fresh_compiler):
    """Through the real compiler, of which the kernels ask for it at every step."""
    (p,), (q,) = ([torch.nn.Parameter(torch.ones(5))] for _ in range(2))
    compiled, eager = cls([p], lr=0.01), cls([q], lr=0.01)
    step = torch.compile(lambda: compiled.step(), fullgraph=True)
    for lr in (0.1, 0.2, 0.0, 0.3):
        for optimizer in (compiled, eager):
            optimizer.param_groups[0]["lr"] = lr
        gradients([p], [q])
        step()
        eager.step()
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@names([optim.SGD, optim.Adam, optim.ASGD, optim.Adagrad, optim.Adafactor])  # each begins in another way
def test_a_first_step_compiles_too(cls, fresh_compiler):
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float32)) for shape in shapes(cls)]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    compiled, eager = cls(params), cls(others)
    step = torch.compile(lambda: compiled.step(), fullgraph=True, backend="eager")
    for _ in range(2):
        gradients(params, others)
        step()
        eager.step()
    for p, q in zip(params, others):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def test_a_scheduler_drives_the_compiled_step(fresh_compiler):
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = [optim.AdamW([x], lr=torch.tensor(0.1)) for x in (p, q)]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 5) for o in optimizers]
    # Not fullgraph: torch does not trace the counter that its schedulers wrap around step.
    step = torch.compile(lambda: optimizers[0].step(), backend="eager")
    for _ in range(5):
        gradients([p], [q])
        step()
        optimizers[1].step()
        for scheduler in schedulers:
            scheduler.step()
    torch.testing.assert_close(p, q)
    assert fresh_compiler["stats"]["unique_graphs"] <= 2  # with the first step, which makes the state


@pytest.mark.skipif(BEFORE_2_13, reason="the compiler of this torch keeps parameters in its graphs until collected")
@pytest.mark.thorough(lambda cls: cls not in (optim.SGD, optim.AdamW, optim.NAdam))
@names(DENSE)
def test_a_compiled_optimizer_frees_its_parameters_at_once(cls, fresh_compiler):
    """Without the garbage collector, in which Dynamo leaves what it has traced."""
    gc.collect()
    gc.disable()
    try:
        params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes(cls)]
        freed = [weakref.ref(p) for p in params]
        optimizer = cls(params)
        step = torch.compile(optimizer.step, backend="eager")
        for _ in range(2):
            gradients(params)
            step()
        del optimizer, params, step
        assert [ref() for ref in freed] == [None] * len(freed)
    finally:
        gc.enable()
