"""The ``repr`` of transformations, rules and states."""

import pickle
import re
from typing import Any, NamedTuple

import optree
import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import optimfx as fx
from optimfx.core import StructuredUpdate
from optimfx.core.reprs import with_compact_repr

PARAMS = {"w": torch.full((64, 10), 0.123456), "b": torch.full((10,), 0.123456)}
richest = cases(ALGORITHMS + LINKS, where=lambda row, options: options == row.richest)


def fields_of(state):
    """The names of the fields of a state and of those in it."""
    names = set()
    for part in state if isinstance(state, (tuple, list)) else state.values() if isinstance(state, dict) else ():
        names |= fields_of(part)
    return names | set(getattr(state, "_fields", ()))


@richest
def test_the_state_of_300_leaves_fits_on_a_screen(row, options):
    tx = row(**options)
    params = [torch.full((4, 3), 0.123456) for _ in range(300)]
    grads = [None, *(torch.full_like(p, 0.654321) for p in params[1:])]
    init = tx.init(params)
    _, after = fx.step(tx, params if row.evaluates else grads, init, params)
    for state in (init, after):
        text = repr(state)
        assert fields_of(state) == set(re.findall(r"(\w+)=", text))
        assert len(text) < 600
        assert "tensor" not in text and "0.123" not in text and "0.654" not in text


@cases(ALGORITHMS + LINKS)
def test_a_transformation_is_shown_as_the_call_that_makes_it(row, options):
    tx = getattr(fx, row.name)(**options)
    assert " at 0x" not in repr(tx)
    assert repr(tx) == fx.describe(tx)
    if not any(map(callable, options.values())):  # of a schedule, the name alone is shown
        again = made_by(repr(tx))
        assert repr(again) == repr(tx)
        assert row.name == "identity" or again.update.description() == tx.update.description()


def made_by(call):
    return eval(call, {**vars(fx), "torch": torch})


@pytest.mark.parametrize(
    "call",
    [
        "chain(identity(), scale(factor=0))",
        "multi_steps(sgd(lr=0.1), every=4)",
        "clip_by_value(clip_value=0)",
        "adamw(lr=0, betas=(0, 0), eps=0, weight_decay=0)",
        "lars(lr=0.3333333333333333, momentum=0, trust_coefficient=0.001)",
        "adopt(lr=0.001, betas=(0.9, 0.9999), eps=1e-06, clip=False)",
        "master_params(state_dtype=None)",
        "muon(lr=0.001, weight_decay=0, momentum=0.95, nesterov=False, ns_coefficients=(3.4445, -4.775, 2.0315), "
        "eps=1e-07, ns_steps=5, ns_dtype=None, adjust_lr_fn='original')",
    ],
)
def test_prints_show_options_that_differ_from_the_default(call):
    assert repr(made_by(call)) == call


def test_a_rule_of_ones_own_by_a_name_of_ours_has_hyperparameters_of_its_own():
    rule = fx.Rule(lambda *args: args, lambda step, lr, rate: lr)
    assert repr(fx.transformation("adam", rule, lr=0.1, rate=0.5)) == "adam(lr=0.1, rate=0.5)"
    assert repr(fx.transformation("ops", rule, lr=0.1, rate=0.0)) == "ops(lr=0.1)"


def test_a_transformation_of_parts_is_one_line():
    tx = fx.named_chain(
        ("a", fx.partition({"x": fx.sgd(lr=0.1), "y": fx.set_to_zero()}, {"w": "x", "b": "y"})),
        ("b", fx.chain(fx.inject_hyperparams(fx.sgd)(lr=torch.tensor(0.5)), fx.scale_by_lr(fx.schedules.linear(0.1)))),
    )
    assert repr(tx) == (
        "named_chain(a: partition(x: sgd(lr=0.1), y: set_to_zero()), "
        "b: chain(inject_hyperparams(sgd(lr=tensor(0.5))), scale_by_lr(lr=linear(lr=0.1))))"
    )


def mine(updates, state, params=None):
    return updates, state


def test_a_transformation_that_says_nothing_of_itself_has_a_name():
    assert repr(fx.GradientTransformation(lambda params: (), mine)) == "mine"
    assert repr(StructuredUpdate().as_transformation()) == "StructuredUpdate()"


def test_a_rule_is_shown_as_where_it_is_written():
    assert repr(fx.adam().update.rule) == "Rule(optimfx.rules.adam.leaf)"


def test_numbers_are_shown_and_tensors_are_not():
    tx = fx.adam()
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = fx.step(tx, PARAMS, state, PARAMS)
    moment = "{'w': f32[64, 10], 'b': f32[10]}"
    assert repr(state).split("\n    ") == [
        "AdamState(", "step=3,", f"exp_avg={moment},", f"exp_avg_sq={moment},", "max_exp_avg_sq=(),\n)"
    ]  # fmt: skip
    _, state = fx.step(tx, {**PARAMS, "b": None}, state, PARAMS)
    assert "step={'w': 4, 'b': 3}," in repr(state)


def test_a_state_in_a_state_is_further_to_the_right():
    state = fx.inject_hyperparams(fx.adam)(lr=fx.schedules.linear(0.3)).init(PARAMS)
    assert repr(state).split("\n")[:5] == [
        "InjectHyperparamsState(",
        "    step=0,",
        "    hyperparams={'lr': 0.1, 'betas': (0.9, 0.999), 'eps': 1e-08},",
        "    inner_state=AdamState(",
        "        step=0,",
    ]
    assert (
        repr(fx.chain(fx.scale(2.0), fx.sgd()).init(PARAMS)) == "(EmptyState(), SGDState(step=0, momentum_buffer=()))"
    )


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ([torch.zeros(4, 3, dtype=torch.bfloat16)], "300 leaves, 3,600 elements, bf16, 7.2 kB"),
        ([torch.zeros(2, dtype=torch.complex64), torch.zeros(1)], "600 leaves, 900 elements, c64 and f32, 6 kB"),
        ([torch.zeros(0, 3, device="meta")], "300 leaves, 0 elements, f32 on meta, 0 B"),
        ([torch.tensor(2.0), torch.tensor(7)], "600 numbers, 2 to 7"),
        ([torch.tensor(0.25)], "300 numbers, all 0.25"),
        ([torch.tensor(1j)], "300 leaves, 300 elements, c64, 2.4 kB"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_prints_sum_up_many_leaves(tensors, text):
    assert repr(fx.StepState([t.clone() for t in tensors for _ in range(300)])) == f"StepState(step=<{text}>)"


def test_leaves_of_every_kind():
    shown = {
        "f16[2]": torch.zeros(2, dtype=torch.float16),
        "f8e4m3fn[2]": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "f32[2, 3]": torch.eye(2, 3).to_sparse(),
        "f32[] on meta": torch.zeros((), device="meta"),
        "True": torch.tensor(True),
        "-7": torch.tensor(-7),
        "0+2j": torch.tensor(2j),
        "nan": torch.tensor(torch.nan, requires_grad=True),
        "-inf": torch.tensor(-torch.inf),
        "1e-08": torch.tensor(1e-8),
        "16777216": torch.tensor(2.0**24),
        "None": None,
        "()": (),
        "'a'": "a",
    }
    for text, leaf in shown.items():
        assert repr(fx.StepState(leaf)) == f"StepState(step={text})"


def test_a_state_that_a_transform_or_a_tracer_holds():
    """Values of many models, or without numbers, are shown by their shape; they are not read."""
    seen = []

    def look(params):
        state = fx.adam().init(params)
        seen.append(repr(state))
        return state

    def as_before(state):
        return seen.pop() == repr(state).replace("step=0", "step=f32[]")

    states = torch.vmap(look)({name: p.expand(5, *p.shape) for name, p in PARAMS.items()})
    assert "exp_avg={'w': f32[64, 10], 'b': f32[10]}" in seen.pop()
    assert "step={'w': f32[5], 'b': f32[5]}" in repr(states) and "'w': f32[5, 64, 10]" in repr(states)
    torch.func.jacrev(look)(PARAMS)
    assert as_before(fx.adam().init(PARAMS))
    make_fx(look)(PARAMS)
    assert as_before(fx.adam().init(PARAMS))
    torch.func.jvp(look, (PARAMS,), (PARAMS,))
    assert as_before(fx.adam().init(PARAMS))


def test_a_tensor_that_has_escaped_from_vmap():
    escaped = []
    torch.vmap(lambda x: escaped.append(fx.StepState(x)) or x)(torch.ones(3))
    assert repr(escaped[0]) == "StepState(step=f32[])"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_states_of_fake_tensors_print(device):
    """Which have no numbers, and on a GPU stand for those that would be waited for."""
    with FakeTensorMode():
        state = fx.StepState([torch.zeros((), device=device), torch.zeros(3, device=device)])
        many = fx.StepState([torch.zeros((), device=device) for _ in range(300)])
        where = "" if device == "cpu" else " on cuda:0"
        inside = repr(state), repr(many)
    assert inside == (repr(state), repr(many))
    assert repr(state) == f"StepState(step=[f32[]{where}, f32[3]{where}])"
    assert repr(many) == f"StepState(step=<300 leaves, 300 elements, f32{where}, 1.2 kB>)"


@pytest.mark.parametrize(
    "leaf", [torch.zeros((), device="meta"), torch.zeros(()).as_subclass(type("Sub", (torch.Tensor,), {}))]
)
def test_prints_read_no_device_tensors_and_subclasses(monkeypatch, leaf):
    """It may be on a device that is still at work, or spread over processes, which would all have to ask."""
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("is read"))
    assert repr(fx.StepState(leaf)).startswith("StepState(step=f32[]")


def test_states_of_symbolic_shapes_print():
    seen = []

    def look(x):
        seen.extend([repr(fx.StepState(x)), repr(fx.StepState([x + 0 for _ in range(300)]))])
        return x

    make_fx(look, tracing_mode="symbolic")(torch.ones(5, 3))
    assert re.fullmatch(r"StepState\(step=f32\[s\d+, s\d+\]\)", seen[0])
    assert seen[1] == "StepState(step=<300 leaves, f32>)"


def test_a_state_is_still_a_named_tuple():
    state = fx.sgd(momentum=0.9).init([torch.zeros(())])
    kind = type(state)
    assert kind.__mro__ == (kind, tuple, object) and kind._fields == ("step", "momentum_buffer")
    assert kind.__eq__ is tuple.__eq__ and kind.__hash__ is tuple.__hash__
    assert optree.is_namedtuple(state) and optree.tree_structure(state).type is kind
    again = pickle.loads(pickle.dumps(state))
    assert type(again) is kind and repr(again) == repr(state)


class Own(NamedTuple):
    step: Any

    def __repr__(self):
        return "mine"


class Plain(NamedTuple):
    step: Any


def test_a_custom_rule_prints_its_name():
    """Its state is shown in the same way, and one that shows itself is left alone."""
    for state, text in ((Plain, "Plain(step=0)"), (Own, "mine")):
        rule = fx.Rule(lambda base, param, grad, s: fx.ops.add(base, grad), lambda step: Plain(step), state=state)
        assert repr(fx.transformation("own", rule).init([torch.ones(3)] * 2)) == text
    assert with_compact_repr(tuple) is tuple
