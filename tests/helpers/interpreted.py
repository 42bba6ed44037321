"""Kernels, interpreted, against the eager executor. test_triton.py runs these tests in a process of their own."""

import copy
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from agreement import CHAINS, assert_agrees, assert_close, channels_last, elementwise, transposed, with_gaps
from catalogue import ALGORITHMS, LINKS, cases, once_maximized
from trees import assert_equal, clone, random_like

import optimfx as fx
from optimfx.core import Locality
from optimfx.execution.executors.triton import norm
from optimfx.execution.executors.triton.codegen import generate, op_table
from optimfx.execution.executors.triton.runtime import build, launch, tables

pytestmark = [
    pytest.mark.skipif(not build.INTERPRETED, reason="TRITON_INTERPRET is not set"),
    # The interpreter computes with NumPy, which warns of what a rule does with zeros.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

BLOCK = 16
"""Each program takes the interpreter ten milliseconds."""
HOST = tables.Place(torch.device("cpu"), 0, False)
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(launch, "BLOCK", BLOCK)


def randn(*shape, dtype=F32):
    return torch.randn(shape, dtype=dtype)


def step(executor, tx, grads, state, params, **how):
    with fx.execution.use(executor):
        return fx.step(tx, clone(grads), copy.deepcopy(state), clone(params), **how)


def has_kernel(row, options):
    return elementwise(row, options) or bool(row.rule and row.rule.locality is Locality.NORM)


@pytest.mark.thorough(lambda row, options: options != row.richest)
@cases(ALGORITHMS + LINKS, where=lambda row, options: has_kernel(row, options) and once_maximized(row, options))
def test_interpreted_kernels_equal_eager_on_any_leaves(row, options):
    """Parameters and state, for leaves of less than a chunk, of more, and of nothing."""
    assert_agrees(row(**options), [row.randn(0), row.randn(BLOCK + 3), row.randn()], "triton")


@cases(ALGORITHMS, where=lambda row, options: row.name in ("adamw", "rmsprop", "lion") and options == row.richest)
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "out of place"])
@pytest.mark.parametrize("stepping", [True, False], ids=["step", "update"])
def test_forms(row, options, stepping, inplace):
    assert_agrees(row(**options), [row.randn(BLOCK + 3)], "triton", stepping=stepping, inplace=inplace)


def test_a_branch_that_the_rule_takes_late():
    """RAdam begins to adapt at the sixth step; the kernel is one for both."""
    before = len(generate._sources)
    assert_agrees(fx.radam(), [randn(5)], "triton", steps=8)
    assert len(generate._sources) - before <= 1


MORE_CHAINS = {
    "rms, schedule": lambda: fx.chain(fx.scale_by_rms(), fx.scale_by_schedule(fx.schedules.linear(-0.1, 0.0, 10))),
    "clip, adam, decay, lr": lambda: fx.chain(
        fx.clip_by_value(0.5), fx.scale_by_adam(), fx.add_decayed_weights(0.1), fx.scale_by_lr(0.1)
    ),
    "ascent": lambda: fx.chain(fx.maximize(), fx.ema(0.9), fx.scale_by_lr(0.1)),
    "lamb": lambda: fx.chain(
        fx.clip_by_global_norm(1.0),
        fx.scale_by_adam(),
        fx.add_decayed_weights(0.1),
        fx.scale_by_trust_ratio(),
        fx.scale_by_lr(0.1),
    ),
    "norms of norms": lambda: fx.chain(fx.scale_by_trust_ratio(), fx.lars(lr=0.1, weight_decay=0.1), fx.lamb(lr=0.1)),
}


@pytest.mark.parametrize("make", {**CHAINS, **MORE_CHAINS}.values(), ids={**CHAINS, **MORE_CHAINS}.keys())
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "out of place"])
def test_chains(make, inplace):
    assert_agrees(make(), [randn(BLOCK + 3), randn(2, 2)], "triton", inplace=inplace)


def test_norms_of_many_chunks(monkeypatch):
    """Each program measures several blocks, and there are more programs than are added up at once."""
    monkeypatch.setattr(launch, "PROGRAMS", 3)
    monkeypatch.setattr(launch, "SUMS", {"BLOCK": 2})
    for size in (BLOCK, 2 * BLOCK + 1, 9 * BLOCK):
        assert_agrees(fx.lamb(lr=0.1), [randn(size), randn(BLOCK + 1)], "triton", steps=1)


@pytest.mark.parametrize("dtype", [F32, F64, BF16, F16, torch.complex64], ids=str)
def test_the_global_norm_of_kernels(dtype):
    """Dense leaves, leaves with gaps and in any order of elements, no leaves, empty leaves, and several dtypes."""
    leaves = [randn(5, 7).t().to(dtype), randn(3, 2 * BLOCK).to(dtype)[:, ::2], randn(0).to(dtype), randn().to(dtype)]
    for some in (leaves, leaves[2:3], [*leaves, randn(3, dtype=F64)]):
        assert norm.unsupported_reason(some) is None
        exact = torch.cat([torch.view_as_real(x.to(torch.complex128)).flatten() for x in some]).norm()
        torch.testing.assert_close(norm.global_norm(some), exact, rtol=4 * torch.finfo(F32).eps, atol=0)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_norms_whose_squares_overflow(dtype):
    grads = [torch.full((BLOCK + 3,), 1e30, dtype=dtype)]
    torch.testing.assert_close(norm.global_norm(grads), grads[0].double().norm())
    params = [torch.full((BLOCK + 3,), 1e25, dtype=dtype)]
    assert_agrees(fx.lars(1.0, momentum=0.0), params, "triton")


OF_ALL = {
    "prodigy": fx.prodigy(estim_lr0=0.1),
    "dadapt_adamw": fx.dadapt_adamw(estim_lr0=0.1),
    "momo": fx.momo(),
    "momo_adam": fx.momo_adam(),
    "dog": fx.scale_by_dog(),
    "dowg": fx.scale_by_dowg(),
}


@pytest.mark.parametrize("name", OF_ALL)
def test_sums_over_all_leaves_are_measured_by_kernels(name, monkeypatch):
    """Of leaves of several dtypes and orders, one of which takes other steps."""
    measured, of = [], norm.totals
    monkeypatch.setattr(norm, "totals", lambda *given: measured.append(of(*given)) or measured[-1])
    tx = OF_ALL[name]
    start = {
        "w": randn(7, 9),
        "late": randn(2 * BLOCK + 1),
        "empty": randn(0),
        "turned": randn(6, 5).t(),
        "complex": torch.randn(5, dtype=torch.complex64),
        "half": randn(20, dtype=BF16),
    }
    runs = {executor: (clone(start), tx.init(start)) for executor in ("triton", "eager")}
    for i in range(3):
        grads = {k: None if k == "late" and i == 1 else (i + 1) * x for k, x in start.items()}
        for executor, (params, state) in runs.items():
            with fx.execution.use(executor):
                runs[executor] = fx.step(tx, clone(grads), state, params, value=torch.tensor(3.0))
    assert len(measured) == 4 and None not in measured  # in the last step, of two runs
    for key in start:
        # Kernels add up in float64.
        rtol = 1e-2 if key == "half" else 1e-5
        torch.testing.assert_close(runs["triton"][0][key], runs["eager"][0][key], rtol=rtol, atol=1e-6)


def test_sums_that_kernels_cannot_measure(monkeypatch):
    """A count on the device is a tensor, and a subclass is not read; both are added up leaf by leaf."""
    tx, params = fx.momo(), [randn(3), randn(2, 2)]
    state = tx.init(params)
    moved = state._replace(step=[torch.tensor(2.0) for _ in params])
    with fx.execution.use("triton"):
        leaves = norm.Leaves(params, params, [state.exp_avg])
        assert norm.totals("momo", tx.update.rule, leaves, (torch.tensor(1.0), 0.9)) is None
        assert norm.totals("momo", tx.update.rule, leaves, (1, 0.9)).shape == (3,)
        fx.step(tx, params, moved, params, value=1.0)


@pytest.mark.parametrize(
    "measure",
    [
        lambda param, grad: (fx.ops.total(grad), fx.ops.total(param))[::-1],
        lambda param, grad: (fx.ops.total(grad), fx.ops.total(grad * fx.ops.total(param))),
        lambda param, grad: (fx.ops.norm(grad), fx.ops.total(grad)),
        lambda param, grad: (3.0, fx.ops.total(grad)),
    ],
    ids=["in another order", "of a sum", "a norm", "a number"],
)
def test_other_measures_have_no_kernel(measure):
    rule = fx.Rule(lambda base, param, grad, s: (grad,), lambda step, a, b: None, measure=measure, totals=("a", "b"))
    params = [randn(3), randn(2, 2)]
    assert norm.totals("other", rule, norm.Leaves(params, params, []), ()) is None


def test_the_global_norm_is_measured_by_kernels_where_these_step(monkeypatch):
    measured = []
    of = norm.global_norm
    monkeypatch.setattr(norm, "global_norm", lambda tensors: measured.append(len(tensors)) or of(tensors))
    tx, params = fx.chain(fx.clip_by_global_norm(1.0), fx.sgd()), [randn(3), None, randn(2, 2)]
    results = [step(executor, tx, params, tx.init(params), params)[0] for executor in ("triton", "eager")]
    assert measured == [2]
    assert_close(*results, params)


@pytest.mark.parametrize("make", MORE_CHAINS.values(), ids=MORE_CHAINS.keys())
def test_a_chain_is_one_kernel(make, monkeypatch):
    """And the norm of all gradients another."""
    launched = []
    monkeypatch.setattr(launch.Launcher, "launch", lambda self, *args: launched.append(self.kernels.kernel))
    tx, params = make(), [randn(3), randn(2, 2)]
    step("triton", tx, params, tx.init(params), params)
    assert len(list(filter(None, launched))) == 1


class Nothing(NamedTuple):
    """The scalars of a rule without any."""


class LeakyState(NamedTuple):
    step: Any
    leak: Any


class LeakyScalars(NamedTuple):
    lr: Any
    rate: Any
    floor: Any


def leaky(cap, name="leaky"):
    """A rule as a user writes it: a closure, a lambda, powers and conditions."""
    squash = lambda x: x / (1 + fx.ops.abs(x))  # noqa: E731

    def leaf(base, param, grad, leak, s):
        leak = fx.ops.where(grad == 0, leak, leak * (1 - s.rate) + squash(grad) ** 2 * s.rate)
        size = fx.ops.maximum(leak**0.5, s.floor)
        return fx.ops.add(base, fx.ops.clamp(grad / size, -cap, cap), alpha=-s.lr), leak

    rule = fx.Rule(
        leaf,
        lambda step, lr, rate: LeakyScalars(lr, rate, 1 / (10 + step)),
        lambda param: (fx.ops.zeros_like(param),),
        LeakyState,
    )
    return fx.transformation(name, rule, lr=0.1, rate=0.3)


def test_a_rule_of_ones_own():
    params = [randn(BLOCK + 3), torch.tensor([0.0, 1.0])]
    assert_agrees(leaky(2.0), params, "triton")
    assert_agrees(fx.chain(fx.clip_by_global_norm(1.0), leaky(2.0)), params, "triton")


def test_rules_of_one_name_have_kernels_of_their_own():
    params = [randn(5)]
    for cap in (2.0, 0.5):
        assert_agrees(leaky(cap), params, "triton", steps=1)


def test_a_name_is_not_code():
    assert_agrees(leaky(1.0, name='"""\n1/0 {x} \\'), [randn(2)], "triton", steps=1)


WORDS = {
    **{function.__name__: function for function in {**op_table.ARITHMETIC, **op_table.COMPARISONS, **op_table.FILLS}},
    **{f"pow {power}": lambda x, power=power: torch.pow(x, power) for power in op_table.POWERS},
    "lerp from far": lambda x, y: torch.lerp(x, y, 0.7),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "where": lambda x, y: torch.where(x > y, x, 0.1),
    "where of numbers": lambda x: fx.ops.where(x > 0, 0.1, 2) * x,
    "a condition as a number": lambda x, y: (x > y) * y,
    "alpha": lambda x, y: torch.add(x, y, alpha=0.1) + torch.sub(x, y, alpha=0.3) + torch.rsub(x, y, alpha=0.7),
    "value": lambda x, y: torch.addcmul(x, y, y, value=0.1) + torch.addcdiv(x, y, 1 + x * x, value=0.3),
    "infinity": lambda x: fx.ops.minimum(x, float("inf")),
    "1 / x": lambda x: 1 / x,
    "cbrt": lambda x: fx.ops.cbrt(torch.abs(x)),
    "rounded": lambda x: fx.ops.rounded(x, F16),
    "rounded_stochastically": lambda x, y: fx.ops.rounded_stochastically(x * y, BF16, 3, 7),
    "==": lambda x: fx.ops.where(x == 0, 0.1, x),
    "!=": lambda x: fx.ops.where(x != 0, 0.1, x),
    "copy": lambda x: torch.clone(x),
    "full_like": lambda x: torch.full_like(x, 0.1) * x,
    "sqrt": lambda x: torch.sqrt(torch.abs(x)),
    "rsqrt": lambda x: torch.rsqrt(torch.abs(x)),
    "log": lambda x: torch.log(torch.abs(x)),
    "pow 0.5": lambda x: torch.abs(x) ** 0.5,
    "pow -0.5": lambda x: torch.abs(x) ** -0.5,
}


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("word", WORDS)
def test_a_word_says_what_torch_computes(word, dtype):
    """Not-a-number and infinities too."""
    function, takes = function_and_arity(word)

    def leaf(base, param, update, s):
        return (function(*[update, param, update * param][:takes]),)

    tx = fx.transformation(word, fx.Rule(leaf, lambda step: Nothing(), reads_param=lambda s: True))
    params = [torch.tensor([0.5, -1.5, 2.0, 0.1, 1.0, torch.nan, 3.0, torch.inf], dtype=dtype)]
    grads = [torch.tensor([1.5, 1.5, -2.0, 0.0, 1.0, 0.3, torch.nan, 2.0], dtype=dtype)]
    found, expected = [], []
    for executor, into in (("triton", found), ("eager", expected)):
        with fx.execution.use(executor):
            into += tx.update(grads, tx.init(params), params)[0]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], expected[0].to(dtype), rtol=ULPS * eps, atol=ULPS * eps, equal_nan=True)


ULPS = 2
"""Tolerance of a word's value. Most are equal; cosine and logarithm come from another library."""


def function_and_arity(word):
    """Return the function that a word calls, and its number of tensors."""
    for count in (1, 2, 3):
        try:
            WORDS[word](*[torch.ones(1)] * count)
        except TypeError:
            continue
        return WORDS[word], count
    raise AssertionError(f"{word} takes neither one tensor, two nor three")


@pytest.mark.parametrize("param, grad, state", [*itertools.product([F32, BF16, F16, F64], repeat=3)], ids=str)
def test_dtypes(param, grad, state):
    tx = fx.chain(fx.clip_by_value(0.5), fx.adamw(lr=0.1, state_dtype=state))
    params = [randn(BLOCK + 3, dtype=param)]
    before = tx.init(params)
    grads = [randn(BLOCK + 3, dtype=grad)]
    found, expected = (step(executor, tx, grads, before, params) for executor in ("triton", "eager"))
    assert_close(found, expected, (params, before))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_half_precision_is_rounded_to_the_nearest(dtype):
    tx, updates = (
        fx.scale(0.3),
        [torch.cat([randn(60), torch.tensor([0.0, torch.inf, -torch.inf, torch.nan])]).to(dtype)],
    )
    results = []
    for executor in ("triton", "eager"):
        with fx.execution.use(executor):
            results.append(tx.update(updates, tx.init(updates))[0])
    assert_equal(*results)


def test_rounding_at_random_is_the_same_at_every_place():
    """Bit for bit, whatever the memory's order: the place of an element is that in its tensor."""
    tx = fx.chain(fx.scale(-1.0), fx.stochastic_rounding(seed=5))
    params = [randn(2 * BLOCK + 3, dtype=BF16), randn(5, 4, dtype=BF16).t()]
    state, grads = tx.init(params), [1e-3 * randn(2 * BLOCK + 3), 1e-3 * randn(5, 4).t()]
    for _ in range(2):
        found, expected = (step(executor, tx, grads, state, params) for executor in ("triton", "eager"))
        assert_equal(found, expected)
        params, state = expected


def test_complex_numbers():
    assert_agrees(
        fx.adamw(lr=0.1), [randn(BLOCK // 2 + 1, dtype=torch.complex64), randn(dtype=torch.complex64)], "triton"
    )


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("offset", [4, 1], ids=["aligned", "misaligned"])
def test_nothing_around_a_leaf_is_touched(size, offset):
    canary = -12345.0
    tx = fx.rmsprop(momentum=0.9)

    def surrounded(t):
        around = torch.full((2 * BLOCK + t.numel(),), canary, dtype=t.dtype)
        around[BLOCK + offset : BLOCK + offset + t.numel()] = t
        return around[BLOCK + offset : BLOCK + offset + t.numel()]

    params, grads = [randn(size), randn(3)], [randn(size), randn(3)]
    given = [*map(surrounded, params)], [*map(surrounded, grads)]
    state = tx.init(params)
    held = copy.deepcopy(state)._replace(square_avg=[*map(surrounded, state.square_avg)])
    with fx.execution.use("triton"):
        found = fx.step(tx, given[1], held, given[0], inplace=True)
    assert found[0][0].data_ptr() == given[0][0].data_ptr()
    assert_close(found, step("eager", tx, grads, state, params), (params, state))
    for t in (*given[0], *given[1], *held.square_avg):
        around = torch.as_strided(t, (2 * BLOCK + t.numel(),), (1,), 0)
        left, right = around[: BLOCK + offset], around[BLOCK + offset + t.numel() :]
        assert (left == canary).all() and (right == canary).all()


@pytest.mark.parametrize("hand", [channels_last, transposed, with_gaps])
@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "out of place"])
def test_memory_orders(hand, inplace):
    params = hand([randn(2, 3, 2, 2), randn(5, 4), randn(3)])
    assert_agrees(fx.adam(), params, "triton", inplace=inplace, hand=hand, steps=2)


def test_conjugate_and_negative_views():
    """Their memory holds other values than they represent."""
    z = randn(4, dtype=torch.complex64)
    negative = z.conj().imag
    assert negative.is_neg()
    for grads, params in (([z.conj()], [z.clone()]), ([negative], [randn(4)])):
        tx = fx.scale(2.0)
        with fx.execution.use("triton"):
            updates, _ = tx.update(grads, tx.init(params))
        assert_equal(updates, [2 * grads[0].resolve_conj().resolve_neg()])


def as_on_a_device(monkeypatch):
    """There, counts and hyperparameters that are tensors stay tensors."""
    monkeypatch.setattr("optimfx.core.hyperparams.read_number", lambda x: x)
    monkeypatch.setattr("optimfx.execution.advance._read_column", lambda column, vector: column)
    monkeypatch.setattr("optimfx.core.tracing.read_number", lambda x: x)


@pytest.mark.parametrize("make", [fx.adamw, fx.radam, fx.adopt], ids=lambda make: make.__name__)
def test_hyperparameters_and_counts_that_are_tensors(make, monkeypatch):
    tx = fx.chain(fx.clip_by_global_norm(1.0), make(lr=torch.tensor(0.1, dtype=F64)))
    params = [randn(BLOCK + 3), randn(2)]
    state = tx.init(params)
    for _ in range(3):
        grads = random_like(params)
        expected = step("eager", tx, grads, state, params)
        with monkeypatch.context() as patched:
            as_on_a_device(patched)
            for waits in ("item", "tolist", "__float__", "__int__", "__bool__"):
                patched.setattr(torch.Tensor, waits, lambda self: pytest.fail("waits for the device"))
            found = step("triton", tx, grads, state, params)
        assert_close(found, expected, (params, state))
        params, state = expected


def test_plans_are_made_once_and_not_kept_for_ever():
    one = tables.plan_chunks((5, 0, 2 * BLOCK), BLOCK, HOST)
    tensor_of, chunk_of, begins = (torch.tensor(x).int() for x in ([0, 2, 2], [0, 0, 1], [0, 1, 1, 3]))
    assert_equal([*one[:4]], [tensor_of, chunk_of, begins, torch.tensor([5, 0, 2 * BLOCK])])
    assert tables.plan_chunks((5, 0, 2 * BLOCK), BLOCK, HOST) is one
    for size in range(1000, 1000 + tables.PLANS):
        tables.plan_chunks((size,), BLOCK, HOST)
    assert len(tables._plans) == tables.PLANS
    assert tables.plan_chunks((5, 0, 2 * BLOCK), BLOCK, HOST) is not one


def test_tensors_make_one_vector():
    plan = tables.plan_chunks((5,), BLOCK, HOST)
    found, width = tables.hyper([torch.tensor(2.5), torch.tensor(False)], 0, plan)
    assert_equal((found, width), (torch.tensor([2.5, 0.0], dtype=F64), 1))
    found, width = tables.hyper([torch.tensor(2.5), torch.tensor([1, 2])], 1, plan)
    assert_equal((found[:4], width), (torch.tensor([2.5, 2.5, 1.0, 2.0], dtype=F64), 2))
    assert tables.hyper([], 0, plan)[0] is plan.no_scalars


def test_a_table_is_made_once_for_tensors_that_stay_where_they_are():
    columns = [[torch.zeros(3), torch.zeros(2)]]
    table, _ = tables.table(columns, HOST)
    assert table.tolist() == [t.data_ptr() for t in columns[0]]
    assert tables.table(columns, HOST)[0] is table
    assert tables.table([columns[0][::-1]], HOST)[0] is not table


@pytest.mark.parametrize("skipped, align", [(0, 16), (1, 1), (2, 1), (4, 16)])
def test_alignment_is_that_of_the_worst_tensor(skipped, align):
    columns = [[torch.zeros(64), torch.zeros(64)], [torch.zeros(64), torch.zeros(64)[skipped:]]]
    assert tables.table(columns, HOST)[1] == align


def test_autograd_learns_of_what_is_written():
    w = torch.nn.Parameter(torch.ones(2))
    loss = (w * w).sum()
    tx = fx.sgd()
    with fx.execution.use("triton"):
        fx.step(tx, torch.ones(2), tx.init(w), w, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tensors_of_inference_mode():
    """Autograd does not count what is written to them."""
    with torch.inference_mode():
        params = [torch.ones(2), torch.ones(3)]
        found = step("triton", fx.sgd(0.5), params, fx.sgd(0.5).init(params), params, inplace=True)[0]
    assert_equal(found, [torch.full((2,), 0.5), torch.full((3,), 0.5)])


def test_interpreted_kernels_run_only_when_asked_for():
    (row,) = fx.explain(fx.rmsprop(), [randn(3)])
    assert row.executor == "blocked" and "not triton: interpreted: for tests" in row.reason
    with fx.execution.use("triton"):
        (row,) = fx.explain(fx.rmsprop(), [randn(3)])
        assert (row.executor, row.reason) == ("triton", "forced by execution.use")
        for tx in (fx.lamb(), fx.chain(fx.clip_by_global_norm(1.0), fx.adamw())):
            (row,) = fx.explain(tx, [randn(3)])
            assert row.executor == "triton" and row.reason.endswith("before it, kernels that measure norms")


class Subclass(torch.Tensor):
    pass


def stateless(leaf):
    return fx.transformation("mine", fx.Rule(lambda base, param, update, s: (leaf(update),), lambda step: Nothing()))


MINE = torch.tensor(2.0)
REFUSED = {
    "torch.exp has no Triton lowering": (stateless(torch.exp), torch.ones(2)),
    "torch.pow has no Triton lowering": (stateless(lambda x: x**0.3), torch.ones(2)),
    "torch.div has no Triton lowering with these arguments: 'floor' is not a number": (
        stateless(lambda x: torch.div(x, 2, rounding_mode="floor")),
        torch.ones(2),
    ),
    "torch.where has no Triton lowering with these arguments": (stateless(lambda x: torch.where(x > 0)), torch.ones(2)),
    "may not branch": (stateless(lambda x: x if x > 0 else -x), torch.ones(2)),
    "stand-in": (stateless(lambda x: x.exp()), torch.ones(2)),
    "a tensor that is not among its arguments": (stateless(lambda x: x * MINE), torch.ones(2)),
    "does not depend": (stateless(lambda x: torch.ones(2)), torch.ones(2)),
    "not elementwise": (fx.muon(), torch.ones(2, 2)),
    "subclasses": (fx.sgd(), torch.ones(2).as_subclass(Subclass)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refusals(why):
    tx, leaf = REFUSED[why]
    state = tx.init(leaf)
    with fx.execution.use("triton"), pytest.raises(ValueError, match=f"'triton'.*cannot run.*{why}"):
        tx.update(leaf, state, leaf)
