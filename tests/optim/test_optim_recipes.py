"""The recipes of torch's documentation, with our classes beside torch's: the same code, the same numbers."""

import copy

import pytest
import torch
from classes import assert_same_value

import optimfx.optim as optim

BOTH = pytest.mark.parametrize("kind", [torch.optim, optim], ids=["torch", "ours"])


def named(**shapes):
    torch.manual_seed(0)
    return [(name, torch.nn.Parameter(torch.randn(shape))) for name, shape in shapes.items()]


def train(optimizer, steps=3):
    for step in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.full_like(p, 1.0 + step)
        optimizer.step()


def saved(kind, params):
    optimizer = kind.AdamW(params, lr=0.1, weight_decay=0.2)
    train(optimizer)
    return optimizer.state_dict()


def with_states(optimizer, state_dict, sources):
    """The checkpoint for this optimizer: each of its parameters with the state of a saved one, or with none."""
    adapted = copy.deepcopy(optimizer.state_dict())
    settings = {k: v for k, v in state_dict["param_groups"][0].items() if k not in ("params", "param_names")}
    adapted["param_groups"][0].update(settings)
    adapted["state"] = {
        new: copy.deepcopy(state_dict["state"][old]) for new, old in enumerate(sources) if old is not None
    }
    return adapted


def loaded(kind, params, hook, checkpoint):
    optimizer = kind.AdamW(params)
    optimizer.register_load_state_dict_pre_hook(hook)
    optimizer.load_state_dict(checkpoint)
    return optimizer


def compare(run):
    """Return the results of a recipe with torch's classes and with ours."""
    theirs, ours = (run(kind) for kind in (torch.optim, optim))
    for their, our in zip(theirs.param_groups[0]["params"], ours.param_groups[0]["params"]):
        torch.testing.assert_close(their, our, rtol=1e-6, atol=1e-6)
    assert_same_value(theirs.state_dict(), ours.state_dict(), rtol=1e-6, atol=1e-6)


def test_a_layer_becomes_two_experts():
    def run(kind):
        checkpoint = saved(kind, named(weight=(3, 2), bias=(3,)))
        experts = named(weight1=(3, 2), bias1=(3,), weight2=(3, 2), bias2=(3,))
        optimizer = loaded(kind, experts, lambda o, s: with_states(o, s, [0, 1, 0, 1]), checkpoint)
        first, second = (optimizer.state[p] for _, p in (experts[0], experts[2]))
        assert_same_value(first, second, rtol=0, atol=0)
        assert first["exp_avg"] is not second["exp_avg"]
        train(optimizer, 2)
        return optimizer

    compare(run)


def test_a_bypass_layer_is_new():
    def run(kind):
        checkpoint = saved(kind, named(weight=(3, 2), bias=(3,)))
        params = named(weight=(3, 2), bias=(3,), bypass=(2, 2))
        optimizer = loaded(kind, params, lambda o, s: with_states(o, s, [0, 1, None]), checkpoint)
        assert optimizer.param_groups[0]["lr"] == 0.1
        train(optimizer, 2)
        assert optimizer.state[params[2][1]]["step"] == 2 and optimizer.state[params[0][1]]["step"] == 5
        return optimizer

    compare(run)


def test_matching_by_names():
    def run(kind):
        checkpoint = saved(kind, named(weight=(3, 2), bias=(3,)))
        names = checkpoint["param_groups"][0]["param_names"]
        params = named(bias=(3,), weight=(3, 2))
        optimizer = loaded(
            kind, params, lambda o, s: with_states(o, s, [names.index(name) for name, _ in params]), checkpoint
        )
        assert optimizer.state[params[0][1]]["exp_avg"].shape == (3,)
        train(optimizer, 2)
        return optimizer

    compare(run)


@BOTH
def test_options_for_each_parameter(kind):
    """Groups by name, as torch's page on optimizers builds them: no decay for biases."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    optimizer = kind.SGD([{"params": weights}, {"params": biases, "weight_decay": 0}], lr=0.5, weight_decay=0.5)
    before = [p.detach().clone() for p in biases]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(biases, before))


def test_schedulers_in_a_chain():
    """Two schedulers stepped one after the other act on what the other left; ours and torch's in any mixture."""
    rates = []
    for kind in (torch.optim, optim):
        p = torch.nn.Parameter(torch.ones(1))
        optimizer = kind.SGD([p], lr=0.9)
        first = kind.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        for second in (torch.optim.lr_scheduler, optim.lr_scheduler):
            copies = copy.deepcopy(optimizer)
            schedulers = [type(first)(copies, gamma=0.9), second.MultiStepLR(copies, milestones=[2, 4], gamma=0.1)]
            for _ in range(5):
                copies.step()
                for scheduler in schedulers:
                    scheduler.step()
            rates.append(copies.param_groups[0]["lr"])
    assert all(abs(rate - rates[0]) <= 1e-15 for rate in rates)
