"""``torch.func`` through an update: vmap, grad, jvp and tracing."""

import optree
import pytest
import torch
from catalogue import ALGORITHMS, LINKS, cases, each_value, once_maximized, rows
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from trees import assert_equal, leaves, random_like, stack

import optimfx as fx

MEMBERS = 3
EVERYTHING = ALGORITHMS + LINKS

# Members' scalars come from the same formulas on tensors instead of numbers, and compound operations from operators:
# a few roundings in each of the steps.
CLOSE = dict(rtol=1e-12, atol=1e-12)


def run(tx, grads, params, steps=3):
    state = tx.init(params)
    for _ in range(steps):
        params, state = fx.step(tx, grads, state, params)
    return params, state


@cases(EVERYTHING, column="vmap")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_vmap_over_models(row, options, dtype):
    """One call for a stack of models equals the loop over them; in float32, to some ulp of the largest numbers."""
    tx = row(**options)
    members = [row.params(dtype) for _ in range(MEMBERS)]
    gradients = [random_like(params) for params in members]
    expected = stack([run(tx, grads, params) for grads, params in zip(gradients, members)])

    single = row.single_ulp * torch.finfo(torch.float32).eps
    close = CLOSE if dtype == torch.float64 else dict(rtol=single, atol=single)
    for inplace in (False, True):
        step = torch.vmap(lambda *given, inplace=inplace: fx.step(tx, *given, inplace=inplace))
        params, state = stack(members), torch.vmap(tx.init)(stack(members))
        for _ in range(3):
            params, state = step(stack(gradients), state, params)
        assert_equal((params, state), expected, **close, msg=lambda text, inplace=inplace: f"{inplace=}: {text}")


@rows(column="vmap over hyperparameters")
@pytest.mark.parametrize("injected", [False, True], ids=["argument", "in the state"])
def test_vmap_over_hyperparameters(row, injected):
    """Each member its own lr and weight decay, as tensors, equals the loop with numbers."""
    values = {"lr": [0.1, 0.01, 0.3], "weight_decay": [0.0, 0.1, 0.02]}
    values = {name: column for name, column in values.items() if row.takes(name)}
    members = [dict(zip(values, member)) for member in zip(*values.values())]
    options = {name: value for name, value in row.richest.items() if name not in values}
    params = row.params()
    grads = random_like(params)
    expected = stack([run(row(**member, **options), grads, params)[0] for member in members])
    tensors = {name: torch.tensor(column, dtype=torch.float64) for name, column in values.items()}
    if injected:
        # Every term switched on, with members' own values in the state.
        tx = fx.inject_hyperparams(row.factory)(**dict.fromkeys(values, 0.1), **options)
        states = [fx.inject_hyperparams(row.factory)(**member, **options).init(params) for member in members]
        state = stack([state._replace(hyperparams={}) for state in states])
        state.hyperparams.update({**stack([tx.init(params).hyperparams] * MEMBERS), **tensors})
        result = stack([params] * MEMBERS)
        for _ in range(3):
            result, state = torch.vmap(lambda s, p: fx.step(tx, grads, s, p))(state, result)
    else:
        result = torch.vmap(lambda member: run(row(**member, **options), grads, params)[0])(tensors)
    assert_equal(result, expected, **CLOSE)


def loss(params):
    return sum((leaf**2 * torch.arange(1.0, 1 + leaf.numel()).reshape(leaf.shape)).sum() for leaf in leaves(params))


def train(row, options, lr, params, extra=()):
    """The loss after three steps of training."""
    tx = fx.chain(*extra, row(**{**options, "lr": lr}))
    state = tx.init(params)
    for _ in range(3):
        grads = torch.func.grad(loss)(params)
        params, state = fx.step(tx, grads, state, params)
    return loss(params)


def small_params(row):
    def leaf(*shape):
        return torch.rand_like(row.randn(*shape, dtype=torch.float64)) + 0.5

    return {"w": leaf(2, 2), "b": [leaf(2)]}


def difference(function, x, direction, width=1e-6):
    """The central difference: 1e-10 of roundings and as much of curvature, over 1e-6."""
    ahead = optree.tree_map(lambda a, d: a + width * d, x, direction)
    behind = optree.tree_map(lambda a, d: a - width * d, x, direction)
    return (function(ahead) - function(behind)) / (2 * width)


def numbers(row, options):
    """The loss after training, as a function of the learning rate and the parameters; a point, and directions."""
    options = {name: value for name, value in options.items() if name != "lr"}
    x = (torch.tensor(0.05, dtype=torch.float64), small_params(row))
    return options, x, random_like(x)


def assert_derivative(function, x, direction, derivative):
    torch.testing.assert_close(derivative, difference(function, x, direction), rtol=1e-5, atol=1e-6)


@cases(where=once_maximized, column="grad through the update")
def test_gradient_through_three_updates(row, options, extra=()):
    """Reverse mode with respect to the parameters agrees with finite differences."""
    options, (lr, params), (_, direction) = numbers(row, options)

    def function(params):
        return train(row, options, lr, params, extra)

    gradient = torch.func.grad(function)(params)
    along = sum((g * d).sum() for g, d in zip(leaves(gradient), leaves(direction)))
    assert_derivative(function, params, direction, along)


@cases(where=once_maximized, column="grad w.r.t. lr")
def test_gradient_with_respect_to_lr(row, options, extra=()):
    """Reverse mode with respect to a tensor learning rate agrees with finite differences."""
    options, (lr, params), _ = numbers(row, options)

    def function(lr):
        return train(row, options, lr, params, extra)

    assert_derivative(function, lr, torch.ones_like(lr), torch.func.grad(function)(lr))


@cases(where=once_maximized, column="jvp")
def test_forward_mode_is_reverse_mode(row, options, extra=()):
    """With respect to the learning rate and the parameters at once."""
    options, x, direction = numbers(row, options)

    def function(x):
        return train(row, options, *x, extra)

    gradient = torch.func.grad(function)(x)
    along = sum((g * d).sum() for g, d in zip(leaves(gradient), leaves(direction)))
    _, tangent = torch.func.jvp(function, (x,), (direction,))
    torch.testing.assert_close(tangent, along, rtol=1e-9, atol=1e-9)


DERIVATIVES = [
    test_gradient_through_three_updates,
    test_gradient_with_respect_to_lr,
    test_forward_mode_is_reverse_mode,
]


@rows([row for row in ALGORITHMS if "grad through the update" not in row.reasons])
@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda test: test.__name__.removeprefix("test_"))
def test_derivatives_pass_a_chain(row, derivative):
    derivative(row, row.richest, (fx.clip_by_global_norm(1.0),))


@cases()
def test_autograd_with_respect_to_every_hyperparameter(row, options):
    """``torch.autograd`` outside of torch.func reaches each numeric hyperparameter given as a tensor."""
    numeric = {"lr": 0.05, **{k: v for k, v in options.items() if isinstance(v, float) and v != 0 and k != "lr"}}
    flags = {k: v for k, v in options.items() if k not in numeric}
    tensors = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in numeric.items()}
    params = small_params(row)

    def function(hyper):
        tx = row(**flags, **hyper)
        state, p = tx.init(params), params
        for _ in range(3):
            p, state = fx.step(tx, params, state, p)
        return loss(p)

    gradients = torch.autograd.grad(function(tensors), list(tensors.values()), allow_unused=True)
    for (name, value), gradient in zip(numeric.items(), gradients):
        detached = {k: v.detach() for k, v in tensors.items()}
        numeric_derivative = difference(
            lambda x, name=name, detached=detached: function({**detached, name: x["at"]}),
            {"at": torch.tensor(value, dtype=torch.float64)},
            {"at": torch.tensor(1.0, dtype=torch.float64)},
        )
        gradient = torch.zeros(()) if gradient is None else gradient  # dampening without momentum has no effect
        torch.testing.assert_close(gradient, numeric_derivative, rtol=1e-5, atol=1e-5, check_dtype=False)


@pytest.mark.thorough(lambda row, options: options != row.richest)
@cases(EVERYTHING, where=each_value)
def test_make_fx_traces_an_update(row, options):
    tx = row(**options)
    params = row.params()
    grads, state = random_like(params), tx.init(params)

    def update(grads, state, params):
        return tx.update(grads, state, params)

    traced = make_fx(update)(grads, state, params)
    for _ in range(2):  # the second call with a state that the trace has not seen
        result = traced(grads, state, params)
        expected = tx.update(grads, state, params)
        assert_equal(result, expected, **CLOSE)
        state = result[1]


@rows([row for row in EVERYTHING if not row.evaluates])
def test_a_trace_for_all_shapes(row):
    """With sizes as symbols: none of them is taken for a constant."""
    tx = row(**row.options[0])

    def begun(*shape):
        params = {"w": row.randn(*shape)}
        return random_like(params), tx.update(random_like(params), tx.init(params), params)[1], params

    traced = make_fx(tx.update, tracing_mode="symbolic")(*begun(4, 3))
    arguments = begun(9, 8)
    assert_equal(traced(*arguments), tx.update(*arguments), rtol=1e-5, atol=1e-6)


def test_forward_mode_without_torch_func():
    from torch.autograd import forward_ad

    params = {"w": torch.rand(2, dtype=torch.float64)}
    with forward_ad.dual_level():
        lr = forward_ad.make_dual(torch.tensor(0.1, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
        tx = fx.sgd(lr=lr)
        stepped, _ = fx.step(tx, params, tx.init(params), params)
        tangent = forward_ad.unpack_dual(stepped["w"]).tangent
    assert_equal(tangent, -params["w"])


def test_second_moment_of_zero_has_a_finite_derivative_with_and_without_eps_root():
    """The root of 0 has none; but of a square, it is taken to be 0."""

    def after(p, eps_root):
        tx = fx.adam(lr=0.1, eps_root=eps_root)
        stepped, _ = fx.step(tx, 0 * p, tx.init(p), p)
        return stepped.sum()

    p = torch.ones(2)
    assert_equal(torch.func.grad(after)(p, 0.0), torch.ones(2))
    assert_equal(torch.func.grad(after)(p, 1e-8), torch.ones(2))


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("algorithm", [fx.adamw, fx.nadam], ids=["counts", "carries"])
def test_leaves_share_their_step_under_vmap(algorithm, levels):
    """However often they are handed in and out: what depends on the count is computed once for all of them."""
    asked = []
    tx = algorithm(lr=lambda step: asked.append(step) or 0.1)
    init, step = tx.init, lambda grads, state, params: fx.step(tx, grads, state, params)
    for _ in range(levels):
        init, step = torch.vmap(init), torch.vmap(step)
    params = [torch.randn((3,) * levels + (2,)) for _ in range(4)]
    state = init(params)
    for _ in range(3):
        params, state = step(params, state, params)
    assert len(asked) == 3


def test_under_vmap_a_leaf_that_sat_out_keeps_a_step_of_its_own():
    tx = fx.adamw(lr=0.1)
    params = [torch.randn(3, 2), torch.randn(3, 2)]
    alone = params[1:]
    state, own = torch.vmap(tx.init)(params), torch.vmap(tx.init)(alone)
    for late in (False, True, True):
        step = torch.vmap(lambda s, p, late=late: fx.step(tx, [p[0], p[1] if late else None], s, p))
        params, state = step(state, params)
        if late:
            alone, own = torch.vmap(lambda s, p: fx.step(tx, p, s, p))(own, alone)
    assert state.step[0].tolist() == [3, 3, 3] and state.step[1].tolist() == [2, 2, 2]
    assert_equal(params[1], alone[0])


def test_where_all_gradients_are_0_the_derivative_of_clipping_is_finite():
    """One model in a vmap whose loss is flat must not turn into nan."""
    slope = torch.tensor([1.0, 2.0])

    def after(p):
        tx = fx.chain(fx.clip_by_global_norm(1.0), fx.sgd(lr=0.1))
        state = tx.init(p)
        for _ in range(2):
            p, state = fx.step(tx, torch.func.grad(lambda p: (slope * p).relu().sum())(p), state, p)
        return (slope * p).relu().sum()

    derivative = torch.vmap(torch.func.grad(after))(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    assert_equal(derivative, torch.stack([slope, torch.zeros(2)]))


@rows([row for row in EVERYTHING if not row.evaluates])  # which looks at a value, and a fake tensor has none
@pytest.mark.parametrize("options", [0, -1], ids=["default", "richest"])
def test_steps_on_fake_tensors(row, options):
    """Estimators of memory and time run a step on tensors without elements."""
    with FakeTensorMode():
        params = {"w": row.randn(3, 2), "b": row.randn(2)}
        tx = row(**row.options[options])
        stepped, _ = fx.step(tx, random_like(params), tx.init(params), params)
        assert stepped["w"].shape == params["w"].shape
