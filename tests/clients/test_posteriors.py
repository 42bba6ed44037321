"""posteriors takes our pure transformations where it takes TorchOpt's, and our classes where it takes torch's."""

import functools

import pytest
import torch
from catalogue import ALGORITHMS
from trees import assert_equal
from twins import TWINS, assert_same, both, by_class, client, options

import optimfx as fx

posteriors = client("posteriors")
torchopt = client("torchopt")  # which posteriors needs

STEPS = 10
X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
Y = torch.linspace(0, 1, 8, dtype=torch.float64).reshape(4, 2)


@pytest.fixture(autouse=True)
def _in_float64():
    """By default: TorchOpt computes bias corrections in the default dtype, and posteriors makes matrices in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def params():
    """Matrices, which every algorithm can step."""
    return {"weight": torch.ones(3, 2), "bias": torch.zeros(1, 2)}


def loss(params, batch):
    """With something beside it, which posteriors asks for."""
    x, y = batch
    return (x @ params["weight"] + params["bias"] - y).square().mean(), torch.empty(0)


def log_posterior(params, batch):
    value, aux = loss(params, batch)
    return -value, aux


def run(transform, requires_grad=False, **how):
    """The last state of a run, in which every run has the same random numbers."""
    torch.manual_seed(0)
    state = transform.init({name: p.requires_grad_(requires_grad) for name, p in params().items()})
    for _ in range(STEPS):
        state, _ = transform.update(state, (X, Y), **how)
    return state


def half_life(step):
    return 0.1 * 0.5 ** (step / 5)


OPTIONS = {
    "sgd": [dict(lr=0.1), dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), dict(lr=0.1, maximize=True)],
    "adam": [dict(lr=0.1), dict(lr=half_life), dict(lr=0.1, weight_decay=0.1, maximize=True)],
    "adamw": [dict(lr=0.1), dict(lr=0.1, weight_decay=0.1)],
    "rmsprop": [dict(lr=0.02), dict(lr=0.02, momentum=0.9, centered=True)],
    "adagrad": [dict(lr=0.1)],
    "adadelta": [dict(lr=0.1)],
    "adamax": [dict(lr=0.1, eps=1e-6)],  # where TorchOpt has another default
    "radam": [dict(lr=0.1, eps=1e-6)],
}
pairs = pytest.mark.parametrize(
    "name, options", [pytest.param(name, o, id=f"{name}-{i}") for name in OPTIONS for i, o in enumerate(OPTIONS[name])]
)


@pairs
def test_a_transformation_in_place_of_torchopts(name, options):
    """To the rounding of formulas in another order."""
    theirs, ours = (run(posteriors.torchopt.build(loss, getattr(kind, name)(**options))) for kind in (torchopt, fx))
    assert_equal(ours.params, theirs.params, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-12, atol=1e-12)


# A minimizer evaluates the loss itself, and posteriors gives the dense gradients of it.
STEPPED = [row for row in ALGORITHMS if not row.evaluates and row.name != "sparse_adam"]


@pytest.mark.parametrize("row", STEPPED, ids=lambda row: row.name)
def test_posteriors_samples_with_every_algorithm(row):
    """As in a loop without posteriors, bit for bit."""
    tx, values = row(**row.richest), params()
    state = tx.init(values)
    for _ in range(STEPS):
        grads = torch.func.grad(lambda values: loss(values, (X, Y))[0])(values)
        updates, state = tx.update(grads, state, values)
        values = fx.apply_updates(values, updates)
    found = run(posteriors.torchopt.build(loss, tx))
    assert_equal(found.params, values)
    assert_equal(found.opt_state, state)


def test_posteriors_in_place():
    """posteriors drops the new state then: TorchOpt writes into the old one by default, and ours where it is told."""
    tx = fx.adam(lr=0.1)
    donating = fx.GradientTransformation(tx.init, functools.partial(tx.update, inplace=True))
    pure = run(posteriors.torchopt.build(loss, tx))
    found = run(posteriors.torchopt.build(loss, donating), inplace=True)
    assert_equal(found.params, pure.params)
    assert_equal(found.opt_state, pure.opt_state)


def listed(tx):
    """For variational inference, in which the parameters are a list, but the gradients and the updates tuples."""

    def update(grads, state, params, **how):
        updates, state = tx.update(list(grads), state, params, **how)
        return tuple(updates), state

    return fx.GradientTransformation(tx.init, update)


@pairs
@pytest.mark.parametrize("family", ["diag", "dense"])
def test_variational_inference(family, name, options):
    build = getattr(posteriors.vi, family).build
    theirs = run(build(log_posterior, getattr(torchopt, name)(**options)))
    ours = run(build(log_posterior, listed(getattr(fx, name)(**options))))
    assert_equal(ours.params, theirs.params, rtol=1e-12, atol=1e-12)


@by_class(TWINS)
def test_a_class_in_place_of_torchs(info):
    builds = (posteriors.optim.build(loss, cls, lr=0.1, **options(info)) for cls in both(info))
    theirs, ours = (run(build, requires_grad=True) for build in builds)
    assert_equal(ours.params, theirs.params)
    assert_same(theirs.optimizer.state_dict(), ours.optimizer.state_dict())
