"""Loading by name, keeping dtypes, and failing without a trace."""

import copy

import pytest
import torch
from classes import assert_same_value

import optimfx as fx
import optimfx.optim as optim


def model(*names):
    torch.manual_seed(0)
    return [(name, torch.nn.Parameter(torch.randn(2, len(name)))) for name in names]


def trained(groups, steps=3, **options):
    optimizer = optim.AdamW(groups, **options)
    for step in range(steps):
        for group in optimizer.param_groups:
            for name, p in zip(group["param_names"], group["params"]):
                p.grad = torch.full_like(p, float(len(name) + step))
        optimizer.step()
    return optimizer


def states_by_name(optimizer):
    return {
        name: optimizer.state.get(p, {})
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"])
    }


def test_by_name_after_reordering_and_regrouping():
    a, bb, ccc = model("a", "bb", "ccc")
    saved = trained([{"params": [a, bb], "lr": 0.1}, {"params": [ccc], "lr": 0.2}])
    a, bb, ccc = model("a", "bb", "ccc")
    moved = optim.AdamW([{"params": [ccc]}, {"params": [bb]}, {"params": [a]}])
    report = moved.load_state_dict(saved.state_dict(), match="names")
    assert report == ((), ())
    assert_same_value(states_by_name(saved), states_by_name(moved), rtol=0, atol=0)
    assert [group["lr"] for group in moved.param_groups] == [0.2, 0.1, 0.1]
    assert [group["param_names"] for group in moved.param_groups] == [["ccc"], ["bb"], ["a"]]
    moved.step()


def test_by_name_with_parameters_added_and_removed():
    saved = trained(model("a", "bb", "ccc"))
    moved = optim.AdamW(model("dddd", "ccc", "a"), lr=0.5)
    with pytest.raises(ValueError, match=r"missing \['dddd'\], unexpected \['bb'\].*strict=False"):
        moved.load_state_dict(saved.state_dict(), match="names")
    report = moved.load_state_dict(saved.state_dict(), match="names", strict=False)
    assert (report.missing, report.unexpected) == (("dddd",), ("bb",))
    before, after = states_by_name(saved), states_by_name(moved)
    assert after["dddd"] == {}
    for name in ("a", "ccc"):
        assert_same_value(before[name], after[name], rtol=0, atol=0)
    assert moved.param_groups[0]["lr"] == saved.param_groups[0]["lr"]


def test_by_name_from_torch():
    torchs = torch.optim.AdamW(model("a", "bb"))
    for p in torchs.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    torchs.step()
    moved = optim.AdamW(model("bb", "a"))
    moved.load_state_dict(torchs.state_dict(), match="names")
    assert_same_value(states_by_name(torchs), states_by_name(moved), rtol=0, atol=0)


def test_by_name_of_a_transformation():
    """In another order and other groups; the count that belongs to a whole group goes with every name of it."""
    schedule = fx.inject_hyperparams(fx.sgd)(lr=lambda step: 0.5**step, momentum=0.9)

    def made(groups):
        return optim.TransformOptimizer(groups, fx.chain(schedule, fx.kahan()))

    def stepped(optimizer):
        for group in optimizer.param_groups:
            for name, p in zip(group["param_names"], group["params"]):
                p.grad = torch.full_like(p, float(len(name)))
        optimizer.step()
        return optimizer

    a, bb, ccc = model("a", "bb", "ccc")
    saved = stepped(stepped(made([{"params": [a, bb], "momentum": 0.5}, {"params": [ccc]}])))
    moved = made([{"params": model("ccc", "dddd")}, {"params": model("bb", "a")}])
    with pytest.raises(ValueError, match=r"missing \['dddd'\]"):
        moved.load_state_dict(saved.state_dict(), match="names")
    assert moved.load_state_dict(saved.state_dict(), match="names", strict=False).missing == ("dddd",)
    before, after = states_by_name(saved), states_by_name(moved)
    for name in before:
        assert_same_value(before[name], after[name], rtol=0, atol=0)
    assert [group["momentum"] for group in moved.param_groups] == [0.9, 0.5]
    stepped(moved)
    assert [group["lr"] for group in moved.param_groups] == [0.25, 0.25]
    steps = [state["0.inner_state.step"].item() for state in states_by_name(moved).values()]
    assert steps == [3, 1, 3, 3]


def test_names_are_needed_on_both_sides():
    unnamed = optim.AdamW([p for _, p in model("a")])
    named = optim.AdamW(model("a"))
    with pytest.raises(ValueError, match=r"needs names on both sides.*named_parameters"):
        named.load_state_dict(unnamed.state_dict(), match="names")
    with pytest.raises(ValueError, match="match must be 'order' or 'names'; got 'shape'"):
        named.load_state_dict(named.state_dict(), match="shape")


def test_the_dtypes_of_a_checkpoint_are_kept_on_demand():
    saved = trained(model("a", "bb"))
    half = [(name, torch.nn.Parameter(p.bfloat16())) for name, p in model("a", "bb")]
    as_torch, kept = optim.AdamW(half), optim.AdamW(half)
    as_torch.load_state_dict(saved.state_dict())
    kept.load_state_dict(saved.state_dict(), keep_dtype=True)
    p = half[0][1]
    assert as_torch.state[p]["exp_avg"].dtype == torch.bfloat16
    assert kept.state[p]["exp_avg"].dtype == torch.float32
    assert_same_value(states_by_name(saved), states_by_name(kept), rtol=0, atol=0)
    assert kept.state[p]["exp_avg"] is not saved.state_dict()["state"][0]["exp_avg"]
    p.grad = torch.ones_like(p)
    kept.step()
    assert kept.state[p]["exp_avg"].dtype == torch.float32


def test_a_count_stays_on_the_host_where_dtypes_are_kept():
    """As in torch: a step that is not captured reads it."""
    saved = trained(model("a"))
    elsewhere = [(name, torch.nn.Parameter(p.to("meta"))) for name, p in model("a")]
    optimizer = optim.AdamW(elsewhere)
    optimizer.load_state_dict(saved.state_dict(), keep_dtype=True)
    state = optimizer.state[elsewhere[0][1]]
    assert (state["step"].device.type, state["exp_avg"].device.type) == ("cpu", "meta")


def test_kept_dtypes_are_those_of_what_hooks_make_of_a_checkpoint():
    saved = trained(model("a", "bb"))
    half = [(name, torch.nn.Parameter(p.bfloat16())) for name, p in model("a", "bb")]
    optimizer = optim.AdamW(half)

    def doubled(_, given):
        state = {i: {k: 2 * x if k == "exp_avg" else x for k, x in row.items()} for i, row in given["state"].items()}
        return {**given, "state": state}

    optimizer.register_load_state_dict_pre_hook(doubled)
    optimizer.load_state_dict(saved.state_dict(), keep_dtype=True)
    for before, after in zip(states_by_name(saved).values(), states_by_name(optimizer).values()):
        assert_same_value(2 * before["exp_avg"], after["exp_avg"], rtol=0, atol=0)
        assert_same_value(before["exp_avg_sq"], after["exp_avg_sq"], rtol=0, atol=0)


class Fault(Exception):  # noqa: N818
    pass


def fail(*args):
    raise Fault


FAULTS = {
    "a group too many": (ValueError, lambda saved: saved["param_groups"].append(saved["param_groups"][0])),
    "a parameter too many": (ValueError, lambda saved: saved["param_groups"][0]["params"].append(7)),
    "a state of something else": (AttributeError, lambda saved: saved.update(state=[1])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_load_that_fails_changes_nothing(fault):
    optimizer = trained(model("a", "bb"))
    saved = copy.deepcopy(optimizer.state_dict())
    kind, spoil = FAULTS[fault]
    spoil(saved)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(kind):
        optimizer.load_state_dict(saved)
    assert_same_value(before, optimizer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_load_whose_hook_fails_changes_nothing(when):
    optimizer, other = trained(model("a", "bb")), trained(model("a", "bb"), steps=1, lr=0.5)
    getattr(optimizer, f"register_load_state_dict_{when}_hook")(fail)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(Fault):
        optimizer.load_state_dict(other.state_dict())
    assert_same_value(before, optimizer.state_dict(), rtol=0, atol=0)
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_a_constructor_that_fails_changes_nothing():
    p = torch.nn.Parameter(torch.ones(2))
    before = p.detach().clone()
    with pytest.raises(ValueError):
        fx.optim.AdamW([p], lr=-1.0)
    assert torch.equal(p, before) and p.grad is None


@pytest.mark.parametrize("match", ["order", "names"])
def test_state_of_no_parameter_is_loaded(match):
    named = [("w", torch.nn.Parameter(torch.ones(2))), ("b", torch.nn.Parameter(torch.ones(1)))]
    source, target = optim.Adam(named), optim.Adam(named[::-1])
    source.state["of all"] = {"seen": torch.tensor(3.0)}
    target.load_state_dict(source.state_dict(), match=match)
    assert target.state["of all"]["seen"] == 3


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("name", ["ASGD", "NAdam"])
def test_carried_scalars_after_a_load_are_torchs(name, late):
    """torch casts them to float64 with the parameters; ASGD's new ones are rounded to float32 all the same."""
    runs = []
    for cls in (getattr(torch.optim, name), getattr(optim, name)):
        torch.manual_seed(0)
        dtypes = (torch.float32, torch.float64, torch.float64)
        params = [torch.nn.Parameter(torch.randn(5, dtype=dtype)) for dtype in dtypes[: 2 + late]]
        optimizer = cls(params, lr=0.01)
        for step in range(6):
            for p in params[: 2 + (step > 2)]:  # the last begins after the load, with scalars in float32
                p.grad = torch.randn_like(p)
            optimizer.step()
            if step == 2:
                loaded = cls(params, lr=0.01)
                loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                optimizer = loaded
        runs.append([(p.detach(), optimizer.state[p]) for p in params])
    for (p, state), (q, ours) in zip(*runs):
        close = {"rtol": 1e-14, "atol": 1e-14} if p.dtype == torch.float64 else {}
        torch.testing.assert_close(q, p, **close)
        for key, value in state.items():
            torch.testing.assert_close(ours[key], value, **close)
