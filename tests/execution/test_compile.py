"""torch.compile: one graph, the eager result, and no recompilation when a number changes."""

import inspect
import shutil
from contextlib import nullcontext
from functools import partial

import optree
import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, each_value, rows
from torch.utils.flop_counter import FlopCounterMode
from trees import assert_equal, clone, leaves, params_like, random_like, stack

import optimfx as fx

CLOSE = dict(rtol=1e-12, atol=1e-12)
"""Compiled scalars are tensors: the same formulas, a few roundings apart in each of the steps."""


def compiled(function, backend="eager"):
    return torch.compile(function, fullgraph=True, backend=backend)


def two_leaves(row, dtype=torch.float64):
    """With elements and without dimensions: more of them would be compiled one by one, each for as long."""
    return {"w": row.randn(3, 2, dtype=dtype), "s": [row.randn(dtype=dtype)]}


FEW = ("sgd", "adamw", "nadam", "lamb", "lbfgs", "muon", "prodigy")
"""One of each kind: stateless, elementwise, with a carried scalar, norms, evaluations, matrices, totals."""


def is_stateless(row):
    return row.rule is not None and row.rule.state is None


@pytest.mark.thorough(lambda row, options: options != row.richest or (row in LINKS and is_stateless(row)))
@cases(ALGORITHMS + LINKS, where=each_value, column="compile")
def test_one_graph_for_every_step(row, options, fresh_compiler):
    """Five steps, the count rising, through one graph; none, where there is nothing to compute."""
    tx = row(**options)
    step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params))
    params = two_leaves(row)
    state = tx.init(params)
    expected, expected_state = params, state
    for _ in range(5):
        grads = random_like(params)
        params, state = step(grads, state, params)
        expected, expected_state = fx.step(tx, grads, expected_state, expected)
    assert_equal((params, state), (expected, expected_state), **CLOSE)
    assert fresh_compiler["stats"]["unique_graphs"] <= 1


PARAMETERS = {row.name: inspect.signature(row.factory).parameters for row in ALGORITHMS}
BETAS = {name: parameters["betas"].default for name, parameters in PARAMETERS.items() if "betas" in parameters}


def at_step(row, step):
    """Return hyperparameters that change from step to step: the learning rate and any betas and weight decay."""
    changing = {"lr": 0.1 / (step + 1)}
    if row.name in BETAS:
        changing["betas"] = tuple(beta * (1 - 0.1 * step) for beta in BETAS[row.name])
    if "weight_decay" in PARAMETERS[row.name]:
        changing["weight_decay"] = 0.1 / (step + 2)
    return changing


def as_tensors(values):
    return optree.tree_map(lambda value: torch.tensor(value, dtype=torch.float64), values)


@pytest.mark.thorough(lambda row, how: how != "argument" and row.name not in FEW)
@rows(column="recompiles")
@pytest.mark.parametrize("how", ["argument", "in the state", "schedule"])
def test_no_recompilation_when_a_hyperparameter_changes(row, how, fresh_compiler, figure):
    first = at_step(row, 0)
    options = {name: value for name, value in row.richest.items() if name not in first}
    params = two_leaves(row)
    grads = random_like(params)

    if how == "argument":
        tx = row(**first, **options)
        step = compiled(
            lambda changing, grads, state, params: fx.step(row(**changing, **options), grads, state, params)
        )
    elif how == "in the state":
        tx = fx.inject_hyperparams(row.factory)(**first, **options)
        step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params))
    else:
        # One schedule for each number, in a pair of betas too.
        leaves, spec = optree.tree_flatten(first)
        schedules = [lambda step, i=i: optree.tree_leaves(at_step(row, step))[i] for i in range(len(leaves))]
        tx = row(**optree.tree_unflatten(spec, schedules), **options)
        step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params))

    state = tx.init(params)
    expected, expected_state = params, row(**first, **options).init(params)
    for i in range(4):
        changing = at_step(row, i)
        if how == "in the state":
            state.hyperparams.update(as_tensors(changing))
        arguments = (as_tensors(changing),) if how == "argument" else ()
        params, state = step(*arguments, grads, state, params)
        expected, expected_state = fx.step(row(**changing, **options), grads, expected_state, expected)
    assert_equal(params, expected, **CLOSE)
    recompiles = fresh_compiler["stats"]["unique_graphs"] - 1
    figure(recompiles)
    assert recompiles == 0


needs_cpp = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="Inductor compiles C++, and there is no compiler"
)

CHAIN = fx.chain(
    fx.clip_by_global_norm(1.0),
    fx.scale_by_adam(),
    fx.masked(fx.add_decayed_weights(0.1), lambda params: {name: name == "w" for name in params}),
    fx.scale_by_lr(fx.schedules.warmup_cosine(0.1, 2, 10)),
)


@needs_cpp
@pytest.mark.thorough(lambda tx, params: isinstance(params, partial) and params.args[0].name not in FEW)
@pytest.mark.parametrize(
    "tx, params",
    [*((row(**row.richest), partial(two_leaves, row)) for row in ALGORITHMS), (CHAIN, params_like)],
    ids=[*(row.name for row in ALGORITHMS), "chain"],
)
def test_inductor_equals_eager(tx, params, fresh_compiler):
    """The whole step through the real compiler, in float32: within 16 ulp of eager over three steps."""
    step = compiled(lambda grads, state, params: fx.step(tx, grads, state, params), "inductor")
    params = params(torch.float32)
    state = tx.init(params)
    expected, expected_state = params, state
    for _ in range(3):
        grads = random_like(params)
        params, state = step(grads, state, params)
        expected, expected_state = fx.step(tx, grads, expected_state, expected)
    tolerance = 16 * torch.finfo(torch.float32).eps
    assert_equal((params, state), (expected, expected_state), rtol=tolerance, atol=tolerance)
    assert fresh_compiler["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("inplace", [False, True])
def test_a_vmapped_step_compiles(inplace, fresh_compiler):
    tx = fx.inject_hyperparams(fx.adamw)(lr=0.1)
    members = [params_like() for _ in range(3)]
    gradients = [random_like(params) for params in members]

    def step(grads, state, params):
        return torch.vmap(lambda g, s, p: fx.step(tx, g, s, p, inplace=inplace))(grads, state, params)

    def run(step):
        params, state = stack(members), torch.vmap(tx.init)(stack(members))
        state.hyperparams["lr"] = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        for _ in range(3):
            params, state = step(stack(gradients), state, params)
        return params, state

    assert_equal(run(compiled(step)), run(step), **CLOSE)
    assert fresh_compiler["stats"]["unique_graphs"] == 1


@pytest.mark.thorough(lambda row: row.name not in FEW)
@rows()
def test_compiled_steps_in_place(row, fresh_compiler):
    tx = row(**row.richest)
    params = two_leaves(row)
    grads = random_like(params)
    expected = fx.step(tx, grads, tx.init(params), params)
    step = compiled(lambda g, s, p: fx.step(tx, g, s, p, inplace=True), "aot_eager")
    result = step(grads, tx.init(params), params)
    assert_equal(result, expected, **CLOSE)
    for given, after in zip(leaves(params), leaves(result[0])):
        assert (given is after) == (given.dim() > 0)  # torch.compile loses writes to 0-d float64 tensors
        assert given.dim() == 0 or torch.equal(given, after)


@pytest.mark.parametrize("tx", [fx.sgd(), fx.adam()], ids=["no slots", "a slot that is not kept"])
def test_a_tuple_of_parameters(tx, fresh_compiler):
    params = torch.randn(3, 2), torch.randn(2)
    grads, state = random_like(params), tx.init(params)
    result = compiled(lambda g, s, p: fx.step(tx, g, s, p))(grads, state, params)
    assert_equal(result, fx.step(tx, grads, state, params), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("surrounded", ["eager", "compiled", "dispatched"])
def test_in_place_on_parameters_that_require_gradients(surrounded, fresh_compiler):
    """As ``dict(model.named_parameters())`` has them: a step in place records nothing."""
    tx, params = fx.adamw(lr=0.1), {"w": torch.ones(3, requires_grad=True)}
    grads, state = {"w": torch.ones(3)}, tx.init(params)
    expected, _ = fx.step(tx, grads, state, {"w": torch.ones(3)})

    def step(grads, state, params):
        return fx.step(tx, grads, state, params, inplace=True)

    with FlopCounterMode(display=False) if surrounded == "dispatched" else nullcontext():
        (compiled(step, "aot_eager") if surrounded == "compiled" else step)(grads, state, params)
    assert_equal(params["w"].detach(), expected["w"], rtol=1e-6, atol=0)
    assert params["w"].is_leaf and params["w"].requires_grad


def test_in_place_within_a_derivative(fresh_compiler):
    """Buffers are given up, but not the gradient."""

    def after(lr, p):
        tx = fx.sgd(lr=lr)
        return fx.step(tx, {"w": p["w"] * 2}, tx.init(p), {"w": p["w"].clone()}, inplace=True)[0]["w"].sum()

    given = torch.tensor(0.1), {"w": torch.ones(3)}
    derivative = torch.func.grad(after, argnums=(0, 1))
    assert_equal(compiled(derivative)(*given), derivative(*given), rtol=1e-6, atol=0)
    assert_equal(derivative(*given)[0], torch.tensor(-6.0))


def test_an_injected_number_does_not_recompile_the_step_of_an_optimizer(fresh_compiler):
    """A schedule of its own, then one that is driven: Dynamo takes the first number for a constant, and no other."""
    for tx, driven in ((fx.inject_hyperparams(fx.sgd)(lr=lambda step: 0.1 / (step + 1)), False), (INJECTED, True)):
        param = torch.ones(2, requires_grad=True)
        param.grad = torch.ones(2)
        optimizer = fx.optim.TransformOptimizer([param], tx)
        optimizer.step()
        torch.compiler.reset()
        fresh_compiler.clear()
        step = compiled(lambda optimizer=optimizer: optimizer.step())
        for i in range(6):
            if driven:
                optimizer.param_groups[0]["lr"] = 0.1 / (i + 2)
            step()
        assert fresh_compiler["stats"]["unique_graphs"] <= 2


INJECTED = fx.inject_hyperparams(fx.sgd)(lr=0.1)

PARTITIONED = {
    "by a tree": {"w": "a", "layers": ["b", ("a", {"b": "b"})], "none": "b"},
    "by a prefix": {"w": "a", "layers": "b", "none": "b"},
    "by a function": lambda params: {name: "a" if name == "w" else "b" for name in params},
}


@pytest.mark.parametrize("labels", PARTITIONED.values(), ids=PARTITIONED.keys())
def test_partitions_compile_to_one_graph(labels, fresh_compiler):
    tx = fx.partition({"a": fx.adam(), "b": fx.sgd(momentum=0.9)}, labels)
    params = params_like()
    grads, state = random_like(params), tx.init(params)
    result = compiled(lambda g, s, p: fx.step(tx, g, s, p))(grads, state, params)
    assert_equal(result, fx.step(tx, grads, state, params), **CLOSE)


def test_execution_use_has_no_effect_inside(fresh_compiler):
    tx = fx.sgd()
    params = params_like()
    with fx.execution.use("foreach"):
        result = compiled(lambda g, s, p: fx.step(tx, g, s, p))(params, tx.init(params), params)
    assert_equal(result, fx.step(tx, params, tx.init(params), params))


def test_a_leaf_without_gradient(fresh_compiler):
    tx = fx.adam()
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    grads = {"a": torch.ones(2), "b": None}
    step = compiled(lambda g, s, p: fx.step(tx, g, s, p))
    state = tx.init(params)
    for _ in range(2):
        params, state = step(grads, state, params)
    assert state.step == {"a": 2, "b": 0}
    assert_equal(params["b"], torch.ones(2))


# ---------------------------------------------------------------------------------------------- many leaves, one op


MANY = [
    pytest.param(lambda: fx.adamw(lr=1e-2), id="adamw"),
    pytest.param(lambda: fx.nadam(lr=1e-2), id="a scalar is carried"),
    pytest.param(lambda: fx.asgd(lr=1e-2), id="a branch depends on the count"),
    pytest.param(lambda: fx.sgd(lr=fx.schedules.cosine_annealing(0.1, 10), momentum=0.9), id="a schedule"),
    pytest.param(lambda: fx.adam(lr=torch.tensor(1e-2, dtype=torch.float64), maximize=True), id="a tensor"),
    pytest.param(lambda: fx.chain(fx.clip_by_global_norm(1.0), fx.lion(lr=1e-2, weight_decay=0.1)), id="a chain"),
]


def many(count=40):
    return {f"{kind}{i}": torch.randn(shape) for i in range(count // 2) for kind, shape in (("w", (3, 2)), ("b", (2,)))}


def counted(nodes):
    """A backend that counts the nodes that compute something, and then leaves all as it is."""

    def backend(graph, inputs):
        quiet = ("<built-in function getitem>", "<built-in function getattr>")
        nodes.append(sum(n.op.startswith("call") and str(n.target) not in quiet for n in graph.graph.nodes))
        return graph.forward

    return backend


@pytest.mark.thorough(lambda make, inplace: inplace and make is not MANY[0].values[0])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("make", MANY)
def test_many_leaves_are_few_nodes(make, inplace, fresh_compiler):
    """Also where leaves have taken unequally many steps; the steps are the eager ones, and in one graph."""
    tx, nodes = make(), []
    step = compiled(lambda g, s, p: fx.step(tx, g, s, p, inplace=inplace), counted(nodes))
    params = many()
    state, expected, expected_state = tx.init(params), params, tx.init(params)
    for i in range(4):
        grads = random_like(params)
        if i == 2:  # one leaf has not been stepped as often as the others
            state, expected_state = (_set_back(each) for each in (state, expected_state))
        expected, expected_state = fx.step(tx, grads, expected_state, expected)
        params, state = step(clone(grads), clone(state), clone(params))
    assert_equal((params, state), (expected, expected_state), rtol=2e-6, atol=2e-6)
    assert fresh_compiler["stats"]["unique_graphs"] == 1
    assert nodes[0] <= 60  # the scalars, whose formulas are as long as they are: of a leaf each, they would be 400


def _set_back(state):
    """The state with one count less at the first leaf."""
    if isinstance(state, tuple) and not hasattr(state, "step"):
        return type(state)(*map(_set_back, state)) if hasattr(state, "_fields") else tuple(map(_set_back, state))
    if not hasattr(state, "step") or "w0" not in state.step:
        return state
    return state._replace(step={**state.step, "w0": state.step["w0"] - 1})


def test_many_leaves_under_vmap(fresh_compiler):
    tx, members = fx.adamw(lr=1e-2), [many() for _ in range(3)]
    grads = stack([random_like(member) for member in members])

    def step(grads, state, params):
        return torch.vmap(lambda g, s, p: fx.step(tx, g, s, p))(grads, state, params)

    def run(step):
        params, state = stack(members), torch.vmap(tx.init)(stack(members))
        for _ in range(3):
            params, state = step(grads, state, params)
        return params, state

    assert_equal(run(compiled(step, "aot_eager")), run(step), rtol=2e-6, atol=2e-6)
    assert fresh_compiler["stats"]["unique_graphs"] == 1


@pytest.mark.thorough(lambda through: through == "torch.func")
@pytest.mark.parametrize("through", ["autograd", "torch.func"])
def test_a_derivative_of_many_leaves(through, fresh_compiler):
    """An op has none: there the rules are traced."""
    tx, params = fx.adam(lr=1e-2), many()
    state, grads = tx.init(params), random_like(params)

    def loss(grads):
        return sum(p.square().sum() for p in fx.step(tx, grads, state, params)[0].values())

    def derivative(grads):
        if through == "torch.func":
            return torch.func.grad(loss)(grads)
        given = {key: grad.detach().requires_grad_() for key, grad in grads.items()}
        return dict(zip(given, torch.autograd.grad(loss(given), list(given.values()))))

    expected = derivative(grads)
    if through == "torch.func":
        found = compiled(derivative, "aot_eager")(grads)
    else:
        given = {key: grad.detach().requires_grad_() for key, grad in grads.items()}
        compiled(loss, "aot_eager")(given).backward()
        found = {key: grad.grad for key, grad in given.items()}
    assert_equal(found, expected, rtol=1e-5, atol=1e-6)


def test_a_class_with_many_parameters(fresh_compiler):
    start = list(many().values())
    both = [[torch.nn.Parameter(p.clone()) for p in start] for _ in range(2)]
    ours, twin = (fx.optim.AdamW(params, lr=1e-2, foreach=False) for params in both)
    step = torch.compile(ours.step, backend="eager")
    for _ in range(3):
        for p, q in zip(*both):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        step()
        twin.step()
    assert_equal([p.detach() for p in both[0]], [p.detach() for p in both[1]], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_norm_of_many_leaves_is_what_the_graph_takes_it_for(dtype):
    torch.library.opcheck(torch.ops.optimfx.global_norm, ([torch.ones(3, dtype=dtype), torch.ones(2, dtype=dtype)],))


def test_shared_scalars_are_joined_and_split_alike():
    torch.library.opcheck(torch.ops.optimfx.join, ([torch.tensor(float(i)) for i in range(3)],))
    torch.library.opcheck(torch.ops.optimfx.part, (torch.arange(3.0), 3))
