"""Nothing is written to, unless it is given up by ``inplace=True``; and then the result is the same."""

import itertools

import optree
import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, once_maximized, rows
from trees import assert_equal, clone, leaves, params_like, random_like

import optimfx as fx

EVERYTHING = ALGORITHMS + LINKS


def started(tx, params):
    """A state that has something in it."""
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(random_like(params), state, params)
    return state


@cases(EVERYTHING, executors=True)
def test_nothing_is_written_to(row, options, executor):
    tx = row(**options)
    params = row.params()
    grads, state = random_like(params), started(tx, params)
    given = (grads, state, params)
    before, versions = clone(given), [leaf._version for leaf in leaves(given)]
    with fx.execution.use(executor):
        updates, _ = tx.update(grads, state, params)
        fx.step(tx, grads, state, params)
    fx.apply_updates(params, updates)
    assert_equal(given, before)
    assert [leaf._version for leaf in leaves(given)] == versions


@cases(EVERYTHING, where=once_maximized, column="in place", executors=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inplace_gives_the_same_in_the_same_buffers(row, options, executor, dtype):
    assert_inplace_is_the_same(row(**options), row.params(dtype), executor)


@cases(EVERYTHING, where=once_maximized, column="complex", executors=True)
def test_in_place_steps_of_complex_leaves(row, options, executor):
    assert_inplace_is_the_same(row(**options), row.params(torch.complex64), executor)


def assert_inplace_is_the_same(tx, params, executor):
    """In a step, whose results are the parameters, and in an update, whose results are the gradients."""
    grads, state = random_like(params), started(tx, params)

    def step(grads, state, params, inplace):
        return fx.step(tx, grads, state, params, inplace=inplace)

    def update(grads, state, params, inplace):
        return tx.update(grads, state, params, inplace=inplace)

    for call, place in ((step, 2), (update, 0)):
        given = (clone(grads), clone_sharing(state), clone(params))
        with fx.execution.use(executor):
            expected = call(clone(grads), state, params, False)
            results, after = call(*given, True)
        assert_equal((results, after), expected, msg=lambda text, call=call: f"{call.__name__}: {text}")
        assert addresses(results) == addresses(given[place]), call.__name__
        assert addresses(after) == addresses(given[1]), call.__name__


def addresses(tree):
    return [leaf.data_ptr() for leaf in leaves(tree)]


def clone_sharing(state):
    """A copy in which leaves that were one tensor still are."""
    copies = {id(leaf): leaf.clone() for leaf in leaves(state)}
    return optree.tree_map(lambda leaf: copies[id(leaf)], state)


def test_apply_updates_in_place():
    params, updates = params_like(torch.bfloat16), params_like(torch.float32)
    expected = fx.apply_updates(params, updates)
    result = fx.apply_updates(params, updates, inplace=True)
    assert_equal(result, expected)
    assert all(a is b for a, b in zip(leaves(result), leaves(params)))


def test_updates_do_not_alias_the_state():
    """A later link that reuses the updates' buffers must not write into an earlier link's state."""
    tx = fx.chain(fx.momentum(0.9), fx.scale(-1.0))
    params = params_like()
    grads = random_like(params)
    updates, state = tx.update(grads, tx.init(params), params)
    kept = clone(state)
    fx.scale(2.0).update(updates, fx.EmptyState(), inplace=True)
    assert_equal(state, kept)


@cases(EVERYTHING, executors=True)
def test_a_state_does_not_hold_what_it_was_given(row, options, executor):
    """A gradient buffer that the caller uses again must not change the state."""
    tx = row(**options)
    params = {"a": row.randn(3), "b": row.randn(2)}
    grads = random_like(params)
    with fx.execution.use(executor):
        _, state = tx.update(grads, tx.init(params), params)
    given = {leaf.data_ptr() for leaf in leaves((grads, params))}
    assert not given & {leaf.data_ptr() for leaf in leaves(state)}


@rows()
def test_a_hyperparameter_is_not_part_of_the_state(row):
    """A tensor lr survives a run that reuses every buffer of the state."""
    lr = torch.tensor(0.1, dtype=torch.float64)
    tx = row(**{**row.richest, "lr": lr})
    params = row.params()
    state = tx.init(params)
    for _ in range(2):
        params, state = fx.step(tx, random_like(params), state, params, inplace=True)
    assert lr == 0.1


@pytest.mark.parametrize("inplace", [False, True])
def test_a_leaf_that_sat_out_keeps_its_count(inplace):
    tx = fx.adam()
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    state = tx.init(params)
    for grads in ({"a": torch.ones(2), "b": None}, {"a": torch.ones(2), "b": torch.ones(2)}):
        params, state = fx.step(tx, grads, state, params, inplace=inplace)
    assert state.step == {"a": 2, "b": 1}


ATOMIC = {
    "chain": fx.chain(fx.momentum(0.9), fx.adamw()),
    "partition": fx.partition({0: fx.sgd(momentum=0.9), 1: fx.adamw()}, {"a": 0, "b": 1}),
    "partition in a chain": fx.chain(fx.momentum(0.9), fx.partition({0: fx.sgd(), 1: fx.adamw()}, {"a": 0, "b": 1})),
    "a function in a chain": fx.chain(fx.momentum(0.9), fx.stateless(lambda u, p: u), fx.adamw()),
    "injected in a chain": fx.chain(fx.momentum(0.9), fx.inject_hyperparams(fx.adamw)()),
}


FAULTS = ["no parameters", "a state of other parameters", "a state of other shapes", "a gradient of another shape"]


@pytest.mark.parametrize("tx", ATOMIC.values(), ids=ATOMIC.keys())
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_call_changes_nothing(tx, fault):
    """Not even the parts that come before the one at fault."""
    params = {"a": torch.ones(2), "b": torch.ones(3)}
    grads, state = random_like(params), tx.init(params)
    if fault == "no parameters":
        arguments = (grads, state, None)
    elif "a state" in fault:
        state = tx.init({**params, "b": None if "parameters" in fault else torch.ones(4)})
        arguments = (grads, state, params)
    else:
        grads["b"] = torch.ones(2)
        arguments = (grads, state, params)
    before = clone(arguments)
    with pytest.raises(ValueError):
        tx.update(*arguments, inplace=True)
    assert_equal(arguments, before)


@rows(EVERYTHING)
def test_a_gradient_whose_elements_share_memory(row):
    """As that of a sum: it is given up, but it cannot be written over."""
    tx, params = fx.chain(row(**row.richest), fx.monitor()), {"w": row.randn(3, 3)}
    grads = {"w": torch.ones(()).expand_as(params["w"])}
    expected = tx.update(clone(grads), tx.init(params), params)
    assert_equal(tx.update(grads, tx.init(params), params, inplace=True), expected)


@cases(EVERYTHING, executors=True)
def test_no_two_results_share_memory(row, options, executor):
    """Parameters and state can each be given up at the next step."""
    tx, params = row(**options), row.params(torch.float32)
    with fx.execution.use(executor):
        results = fx.step(tx, random_like(params), tx.init(params), params)
    # A count is shared by all leaves, and is a number. Neighbours may lie in one storage, but not over one another.
    own = [leaf for leaf in leaves(results) if leaf.numel() and leaf.dim()]
    spans = sorted((leaf.data_ptr(), leaf.data_ptr() + leaf.nbytes) for leaf in own)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    # Autograd counts the writes to each: one must not seem to be written over with its neighbour.
    versions = [leaf._version for leaf in own]
    own[0].mul_(2)
    assert [leaf._version for leaf in own[1:]] == versions[1:]
