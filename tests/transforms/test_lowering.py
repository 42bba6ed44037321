"""Combinators lowered to one program equal their parts one by one."""

import hypothesis.strategies as st
import torch
from hypothesis import example, given, settings
from optree import tree_map
from trees import assert_equal, clone

import optimfx as fx

SHAPES = {"a": (2, 3), "b": (3,), "c": (4, 2), "d": (1,)}


def clipped(lr):
    return fx.chain(fx.clip_by_global_norm(0.3), fx.adam(lr))


def negate(updates, params):
    return {name: None if u is None else -u for name, u in updates.items()}


LINKS = {
    "clip": fx.clip_by_global_norm(0.5),
    "clip values": fx.clip_by_value(0.7),
    "adam": fx.adam(0.1),
    "momentum": fx.sgd(0.1, momentum=0.9),
    "scheduled": fx.scale_by_schedule(lambda step: 1.0 / (step + 2)),
    "decay": fx.add_decayed_weights(0.1),
    "ratio": fx.scale_by_trust_ratio(),
    "injected": fx.inject_hyperparams(fx.lion)(lr=0.1),
    "injected chain": fx.inject_hyperparams(clipped)(lr=lambda step: 0.1 / (step + 1)),
    "function": fx.stateless(negate),
    "identity": fx.identity(),
    "several": fx.multi_steps(fx.sgd(0.1), 2),
}

labels = st.lists(st.booleans(), min_size=4, max_size=4)
links = st.sampled_from(sorted(LINKS))


def chains(inner, least, most):
    return st.tuples(st.just("chain"), st.lists(inner, min_size=least, max_size=most))


def partitions_of(parts):
    return st.tuples(st.just("partition"), st.lists(parts, min_size=2, max_size=2), labels)


parts = st.one_of(links, chains(links, 0, 3))
partitions = partitions_of(st.one_of(parts, partitions_of(parts)))
programs = chains(st.one_of(links, partitions, chains(st.one_of(links, partitions), 1, 2)), 1, 4)


def build(program):
    """The transformation."""
    if isinstance(program, str):
        return LINKS[program]
    kind, inner, *labels = program
    if kind == "chain":
        return fx.chain(*map(build, inner))
    return fx.partition(dict(enumerate(map(build, inner))), dict(zip(SHAPES, labels[0])))


def one_by_one(program, updates, state, params):
    """The updates and the state, link by link and label by label, each with a tree of its own."""
    if isinstance(program, str):
        return LINKS[program].update(updates, state, params)
    kind, inner, *labels = program
    if kind == "chain":
        after = []
        for link, before in zip(inner or ["identity"], state):
            updates, one = one_by_one(link, updates, before, params)
            after.append(one)
        return updates, tuple(after)
    results, after = {}, {}
    for label, link in enumerate(inner):
        mine = {name for name, own in zip(SHAPES, labels[0]) if own == label}
        trees = [{k: x if k in mine else None for k, x in tree.items()} for tree in (updates, params)]
        out, after[label] = one_by_one(link, trees[0], state.inner_states[label], trees[1])
        results.update({name: out[name] for name in mine})
    return {name: results[name] for name in SHAPES}, type(state)(after)


def gradients(missing, seed):
    torch.manual_seed(seed)
    made = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    return {name: None if absent else g for (name, g), absent in zip(made.items(), missing)}


HALVES = ("partition", ["adam", "momentum"], [True, False, True, False])


@given(
    programs,
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["update", "step", "update in place", "step in place", "vmap"]),
)
@example(("chain", ["clip", HALVES]), [[False] * 4], "step in place")
@example(("partition", ["momentum", HALVES], [False, True, True, False]), [[False] * 4], "update")
@example(("chain", ["adam", HALVES, "clip", "ratio", "momentum"]), [[False, True, False, False]], "vmap")
@settings(max_examples=200)
def test_a_program_is_its_parts_one_by_one(program, missing, way):
    """Tolerances: 1e-12 in float64, as passes of several rules round elsewhere, step by step."""
    tx = build(program)
    torch.manual_seed(0)
    params = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    state = tx.init(params)
    for seed, absent in enumerate(missing):
        grads = gradients(absent, seed)
        updates, expected_state = one_by_one(program, clone(grads), clone(state), params)
        expected = fx.apply_updates(params, updates) if "step" in way or way == "vmap" else updates
        given, mine = clone(grads), clone(params)
        if way == "vmap":
            dims = {name: None if g is None else 0 for name, g in given.items()}
            mapped = torch.vmap(lambda g, s, p: fx.step(tx, g, s, p), in_dims=(dims, 0, 0))
            results = mapped(*(tree_map(lambda x: x[None], tree) for tree in (given, state, mine)))
            results, state = (tree_map(lambda x: x[0], tree) for tree in results)
        elif "step" in way:
            results, state = fx.step(tx, given, state, mine, inplace="place" in way)
        else:
            results, state = tx.update(given, state, mine, inplace="place" in way)
        if "place" not in way:
            assert_equal((given, mine), (grads, params))
        assert_equal((results, state), (expected, expected_state), rtol=1e-12, atol=1e-12)
        params = fx.apply_updates(params, updates)


def test_a_label_keeps_its_rounding():
    """The last rule of a leaf computes its parameter, wherever it is: a sum would round once more."""
    params = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    grads = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    alone = fx.multi_steps(fx.adamw(0.1), 1)
    expected, _ = fx.step(alone, grads, alone.init(params), params)
    some = {"a": True, "b": True, "c": False, "d": False}
    for last in (fx.adamw(0.1), alone):
        for other in (fx.identity(), fx.stateless(negate), fx.chain(fx.scale_by_adam(), fx.clip_by_global_norm(1.0))):
            for transforms in ({True: last, False: other}, {False: other, True: last}):
                tx = fx.partition(transforms, some)
                with fx.execution.use("eager"):
                    stepped, _ = fx.step(tx, grads, tx.init(params), params)
                assert_equal([stepped["a"], stepped["b"]], [expected["a"], expected["b"]])
