"""Links that keep training in bfloat16 accurate."""

import pytest
import torch
from versions import BEFORE_2_13

import optimfx as fx
from optimfx.ops.rounding import rounded, rounded_stochastically

BF16 = torch.bfloat16
ULP = 2.0**-7
"""The spacing of bfloat16 between 1 and 2."""


def trained(tx, params, grads, executor="eager", **how):
    state = tx.init(params)
    with fx.execution.use(executor):
        for grad in grads:
            params, state = fx.step(tx, grad, state, params, **how)
    return params, state


@pytest.mark.parametrize("executor", ["eager", "foreach", "blocked", "compiled"])
@pytest.mark.parametrize("inplace", [False, True], ids=["out of place", "in place"])
def test_kahan_adds_up_what_is_too_small(executor, inplace):
    """To one place of the parameter: half of it is its own rounding, the rest for that of 200 compensations."""
    tx = fx.chain(fx.sgd(lr=5e-4), fx.kahan())
    start, grads = torch.rand(300) + 1, torch.randn(200, 300) + 0.2
    params, _ = trained(tx, start.to(BF16), list(grads.to(BF16)), executor, inplace=inplace)
    exact = start.to(BF16).double() - 5e-4 * grads.to(BF16).double().sum(0)
    assert (params.double() - exact).abs().max() < ULP
    plain, _ = trained(fx.sgd(lr=5e-4), start.to(BF16), list(grads.to(BF16)))
    assert torch.equal(plain, start.to(BF16))


def test_kahan_in_single_precision():
    tx = fx.chain(fx.sgd(lr=1.0), fx.kahan())
    params, state = trained(tx, torch.ones(1), [torch.full((1,), -1e-8)] * 10_000)
    exact = torch.full((1,), 1 + 10_000 * 1e-8, dtype=torch.float64)
    torch.testing.assert_close(params.double() + state[1].compensation, exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("executor", ["eager", "blocked"])
def test_parameters_are_the_image_of_their_master(executor):
    """Which takes the very steps of single-precision training on the same gradients."""
    start, grads = torch.randn(50).to(BF16), list(torch.randn(20, 50).to(BF16))
    params, state = trained(fx.chain(fx.sgd(lr=1e-2), fx.master_params()), start, grads, executor)
    assert torch.equal(params, state[1].master.to(BF16))
    single, _ = trained(fx.sgd(lr=1e-2), start.float(), [grad.float() for grad in grads], executor)
    torch.testing.assert_close(state[1].master, single, rtol=0, atol=20 * 2.0**-22)  # a product is rounded apart here


@pytest.mark.parametrize(
    "tx", [fx.kahan(), fx.master_params(), fx.stochastic_rounding()], ids=["kahan", "master", "random"]
)
def test_updates_lead_to_where_the_step_does(tx):
    params, grads = torch.randn(100).to(BF16), (0.1 * torch.randn(100)).to(BF16)
    stepped, _ = fx.step(tx, grads, tx.init(params), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    close = (stepped.float() / params.float() - 1).abs() < 0.5  # then the change is itself a number of bfloat16
    assert torch.equal(fx.apply_updates(params, updates)[close], stepped[close])
    assert close.sum() > 50


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dtype", [BF16, torch.float16], ids=str)
def test_a_compiler_leaves_the_rounding_in(dtype, backend):
    x = torch.randn(1000)
    found = torch.compile(lambda x: rounded(x * 2, dtype) - x, fullgraph=True, backend=backend)(x)
    assert torch.equal(found, (x * 2).to(dtype).float() - x)


def draw(x, seed=0, step=1):
    return rounded_stochastically(x, BF16, seed, step)


def test_rounding_is_right_on_average():
    """The mean of n draws lies within 5 standard deviations: each draw is off by at most a place."""
    x = torch.rand(1000) + 1
    draws = torch.stack([draw(x, seed) for seed in range(400)])
    assert torch.equal(draws, draws.to(BF16).float())
    assert (draws - x).abs().max() < ULP
    assert ((draws.mean(0) - x).abs() / ULP).max() < 5 * 0.5 / 400**0.5
    assert (draws.mean() - x.mean()).abs() / ULP < 5 * 0.5 / draws.numel() ** 0.5


@pytest.mark.parametrize("other", [dict(seed=1), dict(step=2)], ids=["seed", "step"])
def test_draws_depend_on_seed_step_and_place(other):
    x = torch.full((10_000,), 1 + ULP / 2)  # half way between two numbers
    up = draw(x) > x
    assert torch.equal(up, draw(x) > x)
    for fraction in (up, up ^ (draw(x, **other) > x), up[1:] ^ up[:-1]):
        assert 0.48 < fraction.float().mean() < 0.52  # 4 standard deviations


def test_float32_parameters_are_not_rounded():
    x = torch.tensor([0.0, -0.0, 1.0, -1.5, torch.inf, -torch.inf, torch.nan])
    assert torch.equal(draw(x).nan_to_num(7.0), x.nan_to_num(7.0))
    assert torch.equal(draw(x).signbit(), x.signbit())
    y = torch.randn(5)
    assert torch.equal(rounded_stochastically(y, torch.float32, 0, 1), y)


def test_rounded_steps_are_equal_under_every_executor():
    """The same bits one by one, in a list, under vmap and compiled."""
    tx = fx.chain(fx.sgd(lr=1e-3), fx.stochastic_rounding(seed=7))
    params, grads = torch.randn(3, 40).to(BF16), torch.randn(3, 40).to(BF16)

    def step(grads, params):
        return fx.step(tx, grads, tx.init(params), params)[0]

    alone = torch.stack([step(g, p) for g, p in zip(grads, params)])
    with fx.execution.use("foreach"):
        assert torch.equal(torch.stack(step(list(grads), list(params))), alone)
    if not BEFORE_2_13:  # which cannot map over the bits of a tensor
        assert torch.equal(torch.vmap(step)(grads, params), alone)
    compiled = torch.compile(lambda g, p: torch.stack(step(list(g), list(p))), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(grads, params), alone)


@pytest.mark.parametrize("link", [fx.kahan, fx.master_params, fx.stochastic_rounding])
@pytest.mark.parametrize("stepping", [True, False], ids=["step", "update"])
def test_a_derivative_passes_the_rounding(link, stepping):
    """As through a cast: with respect to the rate and the parameters, equal to the plain steps up to rounding."""

    def after(links, lr, p):
        tx, q = fx.chain(fx.sgd(lr=lr), *links), p
        state = tx.init(p)
        for _ in range(2):
            if stepping:
                q, state = fx.step(tx, q * q / 2, state, q)
            else:
                updates, state = tx.update(q * q / 2, state, q)
                q = fx.apply_updates(q, updates)
        return q.float().square().sum()

    given = torch.tensor(0.1), torch.tensor([1.0, 2.0, -3.0], dtype=BF16)
    expected = torch.func.grad(after, argnums=(1, 2))([], *given)
    derivative = torch.func.grad(after, argnums=(1, 2))([link()], *given)
    for got, plain in zip(derivative, expected):
        assert plain.ne(0).all()
        torch.testing.assert_close(got, plain, rtol=2**-6, atol=0)  # two steps of bfloat16, each rounded to 2^-8


@pytest.mark.parametrize("seed", [-1, 2**24, 0.5, None])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="seed must be an integer in"):
        fx.stochastic_rounding(seed)
