"""The kernel as an op, interpreted, against the rule on tensors. test_triton.py runs these tests, too."""

import copy

import pytest
import torch
from agreement import assert_close
from catalogue import cases
from interpreted import BF16, BLOCK, F32, F64, has_kernel, pytestmark, randn, small_blocks  # noqa: F401
from on_gpu import launches
from trees import assert_equal, clone, random_like
from versions import BEFORE_2_13

import optimfx as fx
from optimfx import optim
from optimfx.execution.executors.custom_op.signature import encode
from optimfx.execution.executors.triton import norm

CHAIN = {
    "clip, adamw": lambda lr: fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=lr, weight_decay=0.1)),
    "radam": lambda lr: fx.radam(lr=lr),
    "lamb": lambda lr: fx.chain(fx.clip_by_global_norm(1.0), fx.lamb(lr=lr, weight_decay=0.1)),
    "random": lambda lr: fx.chain(fx.sgd(lr=lr), fx.stochastic_rounding(3)),
}
by_chain = pytest.mark.parametrize("make", CHAIN.values(), ids=CHAIN.keys())


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.fixture
def launched():
    with launches() as sizes:
        yield sizes


def expected_of(tx, grads, state, params):
    with fx.execution.use("eager"):
        return fx.step(tx, clone(grads), copy.deepcopy(state), clone(params))


@cases(where=lambda row, options: has_kernel(row, options) and options == row.richest)
def test_a_compiled_step_has_one_op(row, options, launched):
    """And is what the rule says, with a count that is a tensor."""
    tx = row(**options)
    params = [row.randn(BLOCK + 3), row.randn(2, 2)]
    state = tx.init(params)
    compiled = torch.compile(lambda *args: fx.step(tx, *args), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        grads = random_like(params)
        expected = expected_of(tx, grads, state, params)
        launched.clear()
        found = compiled(grads, state, params)
        assert launched == [2]
        assert_close(found, expected, (params, state))
        params, state = expected


@by_chain
def test_inductor_keeps_the_op(make, launched):
    tx = make(0.1)
    params = {"w": randn(BLOCK + 3), "b": randn(2, 2)}
    state = tx.init(params)

    def step(state, params):
        grads = torch.func.grad(lambda p: sum((x * x).sum() for x in p.values()))(params)
        return fx.step(tx, grads, state, params)

    found = torch.compile(step, fullgraph=True)(state, params)
    assert launched == [2]
    grads = {name: 2 * p for name, p in params.items()}
    assert_close(found, expected_of(tx, grads, state, params), (params, state))


@pytest.mark.parametrize("cls", [optim.AdamW, optim.RAdam, optim.NAdam, optim.SGD], ids=lambda cls: cls.__name__)
def test_a_compiled_class_has_one_op_for_all_its_parameters(cls, launched):
    params = [torch.nn.Parameter(randn(BLOCK + 3)), torch.nn.Parameter(randn(2, 2))]
    twins = copy.deepcopy(params)
    options = {"momentum": 0.9} if cls is optim.SGD else {}
    optimizer, twin = cls(params, lr=0.1, **options), cls(twins, lr=0.1, **options)
    step = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        for p, q in zip(params, twins):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        launched.clear()
        step()
        assert launched == [2]
        with fx.execution.use("eager"):
            twin.step()
    torch.testing.assert_close([p.detach() for p in params], [q.detach() for q in twins])


@by_chain
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_members_with_one_learning_rate(make, dtype, launched, request):
    """A batched leaf is a larger leaf, and the leaves have one count in common."""
    if BEFORE_2_13 and dtype is BF16 and "random" in request.node.name:
        pytest.skip("this torch cannot map over the bits of a tensor")
    tx = make(0.1)
    params = [randn(3, BLOCK + 3, dtype=dtype), randn(3, 2, dtype=dtype)]
    grads = random_like(params)
    state = torch.vmap(tx.init)(params)
    found = torch.vmap(lambda *args: fx.step(tx, *args))(grads, state, params)
    assert launched == [2]
    with fx.execution.use("eager"):
        expected = torch.vmap(lambda *args: fx.step(tx, *args))(grads, state, params)
    assert_close(found, expected, (params, state))


@by_chain
@pytest.mark.parametrize("dims", [0, 1], ids=["first", "last"])
def test_members_with_learning_rates_of_their_own(make, dims, launched):
    """One launch, whose scalars are columns of a table."""
    params = randn(3, 5).movedim(0, dims)
    grads, lrs = random_like(params), torch.tensor([0.1, 0.01, 1.0])

    def step(lr, g, p):
        tx = make(lr)
        return fx.step(tx, g, tx.init(p), p)[0]

    each = torch.vmap(step, in_dims=(0, dims, dims))
    found = each(lrs, grads, params)
    assert launched == [1]
    with fx.execution.use("eager"):
        assert_close(found, each(lrs, grads, params), params.movedim(dims, 0))


def test_members_of_members():
    params, lrs, decays = randn(2, 3, 5), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 0.5])

    def step(lr, decay, p):
        tx = fx.adamw(lr=lr, weight_decay=decay)
        return fx.step(tx, p, tx.init(p), p)[0]

    for dims in ((0, None, 0), (None, None, 0)):
        each = torch.vmap(torch.vmap(step, in_dims=dims), in_dims=(None, 0, 0))
        rates = lrs if dims[0] == 0 else lrs[0]
        found = each(rates, decays, params)
        with fx.execution.use("eager"):
            assert_close(found, each(rates, decays, params), params)


@pytest.mark.parametrize("transform", ["grad", "autograd", "jacrev"])
def test_derivatives_are_those_of_the_rule(transform, launched):
    """With respect to gradients, parameters, state and the learning rate."""
    params, grads = randn(5, dtype=F64), randn(5, dtype=F64)
    state = fx.adamw().init(params)

    def moved(lr, g, p, m):
        tx = fx.adamw(lr=lr, weight_decay=0.1, eps_root=1e-6)
        return fx.step(tx, g, state._replace(exp_avg=m), p)[0].square()

    args = torch.tensor(0.1, dtype=F64), grads, params, randn(5, dtype=F64)
    if transform == "autograd":
        tracked = [x.clone().requires_grad_() for x in args]
        run = lambda: torch.autograd.grad(moved(*tracked).sum(), tracked)  # noqa: E731
    elif transform == "grad":
        run = lambda: torch.func.grad(lambda *a: moved(*a).sum(), argnums=(0, 1, 2, 3))(*args)  # noqa: E731
    else:
        run = lambda: torch.func.jacrev(moved, argnums=(0, 1, 2, 3))(*args)  # noqa: E731
    found = run()
    assert launched
    with fx.execution.use("eager"):
        torch.testing.assert_close(found, run())


def test_second_derivatives():
    params = randn(4, dtype=F64)

    def moved(lr):
        tx = fx.adam(lr=lr, eps_root=1e-6)
        return fx.step(tx, params, tx.init(params), params * lr)[0].square().sum()

    second = torch.func.grad(torch.func.grad(moved))
    found = second(torch.tensor(0.1, dtype=F64))
    with fx.execution.use("eager"):
        torch.testing.assert_close(found, second(torch.tensor(0.1, dtype=F64)))


def test_a_compiled_norm_is_one_op(monkeypatch):
    """The norm of all leaves, also of several dtypes, and of each member."""
    measured = []
    of = norm.global_norm
    monkeypatch.setattr(norm, "global_norm", lambda tensors: measured.append(len(tensors)) or of(tensors))
    tx = fx.chain(fx.clip_by_global_norm(0.1), fx.sgd(lr=1.0))
    run = lambda p: fx.step(tx, p, tx.init(p), p)[0]  # noqa: E731
    params = [randn(3, BLOCK + 3), randn(3, 2, 2, dtype=BF16)]
    for function, calls in ((run, [2]), (torch.vmap(run), [])):
        found = torch.compile(function, fullgraph=True, backend="aot_eager")(params)
        assert measured == calls
        with fx.execution.use("eager"):
            assert_close(found, function(params), params)
        measured.clear()
    torch.library.opcheck(torch.ops.optimfx.global_norm, (params,))


def test_a_rule_without_a_kernel_runs_as_itself(launched):
    rule = fx.Rule(lambda base, param, grad, s: (fx.ops.add(base, torch.special.erf(grad)),), lambda step: EMPTY)
    tx = fx.transformation("erf", rule)
    params = randn(3)
    compiled = torch.compile(lambda g, p: fx.step(tx, g, tx.init(p), p)[0], fullgraph=True, backend="aot_eager")
    assert_equal(compiled(params, params), params + torch.special.erf(params))
    assert not launched


EMPTY = fx.EmptyState()


def test_an_op_keeps_the_rules_of_torch():
    word = encode("triton", *some(fx.rmsprop(lr=0.1)))
    params, grads, slots = [randn(3)], [randn(3)], [randn(3).abs()]
    hyper = torch.tensor([0.1, 0.9, 0.1, 1e-8, 0.0], dtype=F64)
    torch.library.opcheck(torch.ops.optimfx.update, (word, True, params, grads, slots, hyper, 1))
    torch.library.opcheck(torch.ops.optimfx.step_, (word, params, grads, slots, hyper))


def some(tx):
    from optimfx.execution.leaves import Leaves
    from optimfx.execution.step import probe_step

    step = probe_step(tx.update)
    p = torch.ones(3)
    return (step,), Leaves([p], [p], [[p], [None], [None]])
