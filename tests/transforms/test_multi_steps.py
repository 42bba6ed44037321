"""multi_steps: one step on the mean of several gradients."""

import optax
import optree
import pytest
import torch
from catalogue import ALGORITHMS, rows
from optax_runs import assert_same_run
from trees import assert_equal, clone, params_like, random_like, stack

import optimfx as fx

LEAFWISE = [row for row in ALGORITHMS if not row.couples_leaves]


def trained(tx, params, gradients, **options):
    state = tx.init(params)
    for grads in gradients:
        params, state = fx.step(tx, grads, state, params, **options)
    return params, state


def mean(gradients):
    return optree.tree_map(lambda *each: sum(each) / len(each), *gradients)


@rows(LEAFWISE)
@pytest.mark.parametrize("inplace", [False, True])
def test_multi_steps_steps_on_the_mean(row, inplace):
    tx, params = row(**row.richest), row.params()
    gradients = [random_like(params) for _ in range(7)]
    expected, expected_state = trained(tx, params, [mean(gradients[:3]), mean(gradients[3:6])])
    stepped, state = trained(
        fx.multi_steps(tx, 3), clone(params), [clone(grads) for grads in gradients], inplace=inplace
    )
    # In place, torch's own kernels may step, which round otherwise.
    tolerance = {"rtol": 1e-13, "atol": 1e-15} if inplace else {}
    assert_equal((stepped, state.inner_state), (expected, expected_state), **tolerance)


def test_multi_steps_equals_optax():
    tx = fx.multi_steps(fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(0.1)), 3)
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.01))
    assert_same_run(tx, optax.MultiSteps(inner, 3, accumulator_dtype=float).gradient_transformation())


def test_the_calls_between_change_nothing_but_the_sums():
    tx = fx.multi_steps(fx.adamw(0.1), 2)
    params = params_like()
    state = tx.init(params)
    stepped, after = fx.step(tx, random_like(params), state, params)
    assert stepped["w"] is params["w"]
    assert_equal(after.inner_state, state.inner_state)
    updates, after = tx.update(random_like(params), tx.init(params), params)
    assert_equal(updates, optree.tree_map(torch.zeros_like, params))


def test_updates_do_not_stand_where_the_next_sum_will():
    tx = fx.multi_steps(fx.identity(), 1)
    params = [torch.zeros(2)]
    first, state = tx.update([torch.ones(2)], tx.init(params), params, inplace=True)
    tx.update([torch.full((2,), 5.0)], state, params, inplace=True)
    assert_equal(first, [torch.ones(2)])


def test_a_leaf_without_gradient_adds_nothing_and_sits_out_the_step():
    tx = fx.multi_steps(fx.sgd(1.0, momentum=0.5), 2)
    params = [torch.zeros(1), torch.zeros(1), torch.zeros(1)]
    one, two, four = torch.ones(1), torch.full((1,), 2.0), torch.full((1,), 4.0)
    stepped, state = trained(tx, params, [[one, None, None], [None, two, None]])
    assert_equal(stepped, [torch.zeros(1), -one, torch.zeros(1)])
    assert [int(step) for step in state.inner_state.step] == [0, 1, 0]
    stepped, state = trained(tx, params, [[one, None, None], [None, two, None], [one, None, None], [four, None, None]])
    assert_equal(stepped, [torch.full((1,), -3.0), -one, torch.zeros(1)])
    assert stepped[2] is params[2]


def test_nonfinite_gradients_are_skipped_with_their_step():
    tx = fx.multi_steps(fx.scale(1.0), 2)
    params = [torch.zeros(1)]
    state = tx.init(params)
    seen = []
    for value in (torch.inf, 1.0, 2.0, 4.0):
        updates, state = tx.update([torch.tensor([value])], state, params)
        seen.append(float(updates[0]))
    assert seen == [0.0, torch.inf, 0.0, 3.0]


def test_sums_in_single_precision():
    """257 ones: bfloat16 cannot count so far."""
    tx = fx.multi_steps(fx.sgd(1.0), 257, state_dtype=torch.float32)
    params = [torch.zeros(1, dtype=torch.bfloat16)]
    stepped, state = trained(tx, params, [[torch.ones(1, dtype=torch.bfloat16)]] * 257)
    assert stepped[0].item() == -1.0
    assert state.acc_grads[0].dtype == torch.float32


def test_updates_have_one_dtype_in_all_calls():
    tx = fx.multi_steps(fx.sgd(1.0), 2, state_dtype=torch.float32)
    params = [torch.zeros(1, dtype=torch.bfloat16)]
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        assert updates[0].dtype == torch.float32


def test_under_vmap_what_depends_on_the_count_is_computed_once():
    asked = []
    tx = fx.multi_steps(fx.sgd(lr=lambda step: asked.append(step) or 0.1, momentum=0.9), 2)
    params = [torch.randn(3, 2) for _ in range(4)]
    state = torch.vmap(tx.init)(params)
    for _ in range(3):
        params, state = torch.vmap(lambda g, s, p: fx.step(tx, g, s, p))(params, state, params)
    assert sum(isinstance(step, torch.Tensor) for step in asked) == 3  # beside the checks, which ask for the first


def test_multi_steps_under_vmap():
    tx = fx.multi_steps(fx.chain(fx.clip_by_global_norm(1.0), fx.adam(0.1)), 2)
    models = [params_like() for _ in range(3)]
    gradients = [[random_like(model) for _ in range(5)] for model in models]
    params, state = stack(models), torch.vmap(tx.init)(stack(models))
    for k in range(5):
        grads = stack([each[k] for each in gradients])
        params, state = torch.vmap(lambda g, s, p: fx.step(tx, g, s, p))(grads, state, params)
    expected = stack([trained(tx, *pair)[0] for pair in zip(models, gradients)])
    assert_equal(params, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_multi_steps_compiles_once_for_all_calls(inplace, fresh_compiler):
    tx = fx.multi_steps(fx.adamw(fx.schedules.linear(0.1, total_iters=3)), 2)
    step = torch.compile(
        lambda grads, state, params: fx.step(tx, grads, state, params, inplace=inplace),
        fullgraph=True,
        backend="aot_eager",
    )
    params = {"w": torch.randn(3, 2), "b": torch.randn(2)}
    gradients = [random_like(params) for _ in range(6)]
    expected, expected_state = trained(tx, params, gradients)
    stepped = kept = clone(params)
    state = tx.init(stepped)
    for grads in gradients:
        stepped, state = step(clone(grads), state, stepped)
    assert_equal(stepped, expected, rtol=1e-6, atol=1e-6)
    assert_equal(state.inner_state, expected_state.inner_state, rtol=1e-6, atol=1e-6)
    assert inplace == (stepped["w"] is kept["w"])
    assert fresh_compiler["stats"]["unique_graphs"] == 1


def test_gradients_through_a_step():
    """The sum hands on to each of its gradients what the mean weighs it with."""
    tx = fx.multi_steps(fx.sgd(2.0), 4)
    params = [torch.zeros(1)]

    def after(gradients):
        return trained(tx, params, [[grad] for grad in gradients])[0][0].sum()

    gradients = torch.ones(4, 1)
    assert_equal(torch.func.grad(after)(gradients), torch.full((4, 1), -0.5))


def test_multi_steps_as_an_optimizer():
    """Small batches one after the other are a large one; scheduled, and resumed between two of them."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 3), torch.randn(8, 1)

    def batches(model, optimizer, parts):
        for part in parts:
            optimizer.zero_grad()
            (model(x[part]) - y[part]).square().mean().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(1)
        return torch.nn.Linear(3, 1)

    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.inject_hyperparams(fx.adamw)(lr=0.1))
    whole, small, resumed = fresh(), fresh(), fresh()
    batches(whole, fx.optim.TransformOptimizer(whole.parameters(), tx), [slice(0, 8)] * 3)
    halves = [slice(0, 4), slice(4, 8)] * 3
    optimizer = fx.optim.TransformOptimizer(small.parameters(), fx.multi_steps(tx, 2))
    batches(small, optimizer, halves[:3])
    resumed.load_state_dict(small.state_dict())
    again = fx.optim.TransformOptimizer(resumed.parameters(), fx.multi_steps(tx, 2))
    again.load_state_dict(optimizer.state_dict())
    batches(small, optimizer, halves[3:])
    batches(resumed, again, halves[3:])
    assert optimizer.param_groups[0]["lr"] == 0.1
    for ours, expected, other in zip(small.parameters(), whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
        assert_equal(ours, other)


def test_multi_steps_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"every must be an integer in \[1, inf\); got 0"):
        fx.multi_steps(fx.sgd(), 0)
    tx = fx.multi_steps(fx.adamw(), 2)
    params = [torch.ones(2)]
    state = tx.init(params)
    with pytest.raises(TypeError, match="the state must be of type MultiStepsState; got AdamState"):
        tx.update(params, fx.adamw().init(params), params)
    with pytest.raises(ValueError, match="needs the parameters"):  # at the first call, which does not step yet
        tx.update(params, state)
    for grads in ([torch.ones(3)], [torch.ones(1)]):  # the second would broadcast
        with pytest.raises(ValueError, match=r"updates\[0\] has shape"):
            fx.step(tx, grads, state, params, inplace=True)
    plain = fx.multi_steps(
        fx.GradientTransformation(lambda params: (), lambda updates, *rest, **extra: (updates, ())), 2
    )
    with pytest.raises(ValueError, match=r"updates\[0\] has shape \(1,\), but state.acc_grads\[0\] has shape \(2,\)"):
        plain.update([torch.ones(1)], plain.init(params))
    assert state.step == 0 and state.acc_grads[0].sum() == 0


def test_multi_steps_describes_itself():
    tx = fx.multi_steps(fx.sgd(0.1), 4)
    assert repr(tx) == "multi_steps(sgd(lr=0.1), every=4)"
    assert [row.transform for row in fx.explain(tx, [torch.ones(2)])] == ["sgd"]
