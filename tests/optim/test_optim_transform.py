"""Any transformation as an optimizer, and any optimizer as a transformation."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from classes import CLASSES, DB, assert_same_value, give_gradients, parameters, richest, take_step
from optim_runs import run
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from trees import assert_equal, clone

import optimfx as fx
import optimfx.optim as optim


def double(updates, state, params=None, *, inplace=False, **extra):
    return [None if u is None else u.mul_(2) if inplace else u * 2 for u in updates], state


TRANSFORMS = {
    "one rule": fx.adamw(lr=0.1),
    "a chain": fx.chain(fx.clip_by_global_norm(1.0), fx.scale_by_adam(), fx.scale_by_lr(0.1)),
    "injected": fx.chain(fx.clip_by_value(0.5), fx.inject_hyperparams(fx.adamw)(lr=0.1, betas=(0.8, 0.9))),
    "a partition": fx.partition({True: fx.muon(ns_dtype=None), False: fx.adamw()}, fx.is_matrix),
    "a schedule": fx.inject_hyperparams(fx.sgd)(lr=lambda step: 0.1 / (step + 1), momentum=0.9),
    "several passes": fx.chain(fx.clip_by_global_norm(1.0), fx.scale_by_adam(), fx.clip_by_global_norm(1.0), fx.sgd()),
    "a function": fx.chain(fx.GradientTransformation(lambda params: (), double), fx.scale(0.5), fx.sgd()),
}
each = pytest.mark.parametrize("tx", TRANSFORMS.values(), ids=TRANSFORMS.keys())


def some_params():
    return [torch.nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (3,), (2, 1, 2)]]


def gradients(params, step):
    torch.manual_seed(step)
    for i, p in enumerate(params):
        p.grad = None if (step, i) == (1, 1) else torch.randn_like(p)


@each
def test_a_transform_optimizer_is_the_transformation(tx):
    """A parameter without a gradient is skipped; and the gradients are left as they are."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, tx)
    pure = [p.detach().clone() for p in params]
    state = tx.init(pure)
    for i in range(4):
        gradients(params, i)
        given = [p.grad for p in params]
        kept = [None if g is None else g.clone() for g in given]
        with fx.execution.use("blocked", "eager"):
            optimizer.step()
            pure, state = fx.step(tx, kept, state, pure)
        assert all((a is b) for a, b in zip(given, [p.grad for p in params]))
        assert_equal(given, kept)
        assert_equal([p.detach() for p in params], pure)
    assert_equal(optimizer.state_of(), state)


@each
def test_its_checkpoint_goes_on(tx):
    """Through a file and the safe loader; copies too."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, tx)
    for i in range(3):
        gradients(params, i)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    moved_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    moved = optim.TransformOptimizer(moved_params, tx)
    moved.load_state_dict(torch.load(file, weights_only=True))
    for i in range(3, 5):
        gradients(params, i)
        gradients(moved_params, i)
        optimizer.step()
        moved.step()
    assert_equal([p.detach() for p in moved_params], [p.detach() for p in params])
    assert_same_value(optimizer.state_dict(), moved.state_dict(), rtol=0, atol=0)


def test_a_scheduler_drives_an_injected_lr_and_a_group_overrides_it():
    tx = fx.inject_hyperparams(fx.sgd)(lr=1.0)
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = optim.TransformOptimizer([{"params": [a]}, {"params": [b], "lr": 0.1}], tx)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(2):
        a.grad, b.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert_equal([a.detach(), b.detach()], [torch.tensor([-1.5]), torch.tensor([-0.15])], rtol=1e-6, atol=0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.025]


def test_the_value_of_a_schedule_is_shown():
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = optim.TransformOptimizer([p], fx.inject_hyperparams(fx.sgd)(lr=lambda step: 0.5**step))
    for expected in (1.0, 0.5, 0.25):
        p.grad = torch.ones(1)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == expected


def test_hooks_closure_and_copies():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = optim.TransformOptimizer([("weight", p)], fx.adam())
    seen = []
    optimizer.register_step_post_hook(lambda *args: seen.append(1))

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1.0
    assert seen == [1]
    assert optimizer.param_groups[0]["param_names"] == ["weight"]
    twin = copy.deepcopy(optimizer)
    twin.param_groups[0]["params"][0].grad = torch.ones(1)
    twin.step()
    assert not torch.equal(twin.param_groups[0]["params"][0], p)
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_state_is_kept_under_its_parameter():
    """By torch's names; in a chain behind the number of the link. What belongs to all of a group, under each."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, fx.chain(fx.adamw(), fx.inject_hyperparams(fx.lion)(lr=0.1)))
    gradients(params, 0)
    optimizer.step()
    rows = [optimizer.state[p] for p in params]
    assert [*rows[0]] == [
        "0.step",
        "0.exp_avg",
        "0.exp_avg_sq",
        "1.step",
        "1.inner_state.step",
        "1.inner_state.exp_avg",
    ]
    assert all(row["1.step"] is rows[0]["1.step"] for row in rows)
    assert all(row["0.exp_avg"].shape == p.shape for p, row in zip(params, rows))


def test_a_checkpoint_of_torchs_class_goes_on():
    params, others = some_params(), some_params()
    for p, q in zip(params, others):
        q.data.copy_(p.detach())
    theirs, ours = torch.optim.AdamW(params, foreach=False), optim.TransformOptimizer(others, fx.adamw())
    for i in range(4):
        gradients(params, i)
        gradients(others, i)
        theirs.step()
        if i == 1:
            for p, q in zip(params, others):
                q.data.copy_(p.detach())
            ours.load_state_dict(theirs.state_dict())
        elif i > 1:
            ours.step()
    assert_equal([q.detach() for q in others], [p.detach() for p in params])


@each
def test_state_begins_at_the_first_step(tx):
    """With the dtypes that the parameters have then; and again when it is cleared."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, tx)
    optimizer.step()
    optimizer.state_of()
    assert not optimizer.state
    for p in params:
        p.data = p.data.double()
    for _ in range(2):
        pure = [p.detach().clone() for p in params]
        state = tx.init(pure)
        for i in range(3):
            gradients(params, i)
            grads = [None if p.grad is None else p.grad.clone() for p in params]
            with fx.execution.use("blocked", "eager"):
                optimizer.step()
                pure, state = fx.step(tx, grads, state, pure)
        assert_equal([p.detach() for p in params], pure)
        assert_equal(optimizer.state_of(), state)
        optimizer.state.clear()


def test_a_step_that_fails_begins_nothing():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = optim.TransformOptimizer([p], fx.adamw())
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(ValueError, match="is sparse"):
        optimizer.step()
    assert not optimizer.state


@each
def test_a_group_that_is_added_later(tx):
    """Is a tree of its own; one without parameters, as a process may have it, is none."""
    params, others = some_params(), some_params()
    optimizer = optim.TransformOptimizer(params, tx)
    trees = [params]
    pure = [[p.detach().clone() for p in tree] for tree in (params, others)]
    states = [tx.init(tree) for tree in pure]
    for i in range(4):
        if i == 2:
            optimizer.add_param_group({"params": others})
            optimizer.add_param_group({"params": []})
            trees.append(others)
        for tree in trees:
            gradients(tree, i)
        grads = [[None if p.grad is None else p.grad.clone() for p in tree] for tree in trees]
        with fx.execution.use("blocked", "eager"):
            optimizer.step()
            for k in range(len(trees)):
                pure[k], states[k] = fx.step(tx, grads[k], states[k], pure[k])
    for k, tree in enumerate(trees):
        assert_equal([p.detach() for p in tree], pure[k])
        assert_equal(optimizer.state_of(k), states[k])


def test_labels_may_be_a_tree():
    params = some_params()[:2]
    tx = fx.partition({"a": fx.inject_hyperparams(fx.sgd)(lr=1.0), "b": fx.set_to_zero()}, ["a", "b"])
    before = [p.detach().clone() for p in params]
    optimizer = optim.TransformOptimizer(params, tx)
    assert optimizer.param_groups[0]["lr"] == 1.0
    gradients(params, 0)
    optimizer.step()
    assert_equal([p.detach() for p in params], [before[0] - params[0].grad, before[1]])


def test_one_name_with_different_values_is_the_groups_to_decide():
    """One key of a group shows and sets one number. A value in common is one, and so is a schedule."""
    matrix, vector = torch.nn.Parameter(torch.zeros(1, 1)), torch.nn.Parameter(torch.zeros(1))

    def made(first, second, groups):
        sgd = fx.inject_hyperparams(fx.sgd)
        return optim.TransformOptimizer(
            groups, fx.partition({True: sgd(lr=first), False: sgd(lr=second)}, fx.is_matrix)
        )

    with pytest.raises(ValueError, match=r"lr is injected with different values, 1.0, 0.5, .*set it for each group"):
        made(1.0, 0.5, [matrix, vector])
    with pytest.raises(ValueError, match="lr is injected with different values"):
        made(1.0, lambda step: 1.0, [matrix, vector])
    with pytest.raises(ValueError, match="lr is injected with different values"):
        made(1.0, 0.5, [{"params": [matrix], "lr": 1.0}]).add_param_group({"params": [vector]})
    optimizer = made(1.0, 0.5, [{"params": [matrix], "lr": 1.0}, {"params": [vector], "lr": 0.5}])
    matrix.grad, vector.grad = torch.ones(1, 1), torch.ones(1)
    optimizer.step()
    assert (matrix.item(), vector.item()) == (-1.0, -0.5)
    assert made(0.25, 0.25, [matrix, vector]).param_groups[0]["lr"] == 0.25


def test_a_transformation_that_keeps_to_no_custom():
    """Written by hand, around one that injects: a group shows that after the first step. What it keeps changes its
    form; a number for all parameters goes where any of them goes."""
    inner = fx.inject_hyperparams(fx.sgd)(lr=0.5, momentum=0.5)

    def init(params):
        return {"inner": inner.init(params), "seen": torch.zeros(()), "last": None}

    def update(updates, state, params=None, *, inplace=False, **extra):
        new, inside = inner.update(updates, state["inner"], params, inplace=inplace)
        return new, {"inner": inside, "seen": state["seen"] + 1, "last": [p.sum() for p in params]}

    tx = fx.GradientTransformation(init, update)
    params = [("a", torch.nn.Parameter(torch.ones(2))), ("b", torch.nn.Parameter(torch.ones(2)))]
    optimizer = optim.TransformOptimizer(params, tx)
    for _ in range(2):
        for _, p in params:
            p.grad = torch.ones(2)
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.state_of()["last"] == [1, 1] and optimizer.state_of()["seen"] == 2
    assert all(optimizer.state[p]["seen"] == 2 and optimizer.state[p]["last"] == 1 for _, p in params)
    moved = optim.TransformOptimizer(params[::-1], tx)
    moved.load_state_dict({**optimizer.state_dict()}, match="names")
    assert moved.state_of()["seen"] == 2


def test_dtypes_come_through_a_checkpoint():
    """Those of a new state: counts and carried scalars, which bfloat16 could not hold, and what is to be float32."""
    params = [torch.nn.Parameter(p.detach().bfloat16()) for p in some_params()]
    tx = fx.chain(fx.nadam(state_dtype=torch.float32), fx.ema_params())
    optimizer = optim.TransformOptimizer(params, tx)
    for i in range(300):  # which bfloat16 rounds
        for p in params:
            p.grad = torch.full_like(p, float(i % 3 - 1))
        optimizer.step()
    moved = optim.TransformOptimizer(params, tx)
    moved.load_state_dict(optimizer.state_dict())
    assert_equal(moved.state_of(), optimizer.state_of())
    wide = [torch.nn.Parameter(p.detach().double()) for p in params]
    as_new, kept = (optim.TransformOptimizer(wide, tx) for _ in range(2))
    as_new.load_state_dict(optimizer.state_dict())
    kept.load_state_dict(optimizer.state_dict(), keep_dtype=True)
    begun = tx.init(wide)
    assert as_new.state_of()[1].averaged[0].dtype == begun[1].averaged[0].dtype == torch.float64
    assert kept.state_of()[1].averaged[0].dtype == torch.bfloat16


def test_no_two_entries_share_a_tensor():
    """Neither in a checkpoint, which may be loaded into, nor in the state, which is written in place."""
    params = some_params()
    optimizer = optim.TransformOptimizer(params, fx.chain(fx.monitor(), fx.inject_hyperparams(fx.adamw)()))
    for i in range(3):
        gradients(params, i)
        optimizer.step()
    saved = optimizer.state_dict()
    tensors = [x for row in saved["state"].values() for x in row.values()]
    assert len({x.data_ptr() for x in tensors}) == len(tensors)
    moved = optim.TransformOptimizer(params, optimizer.tx)
    moved.load_state_dict(copy.deepcopy(saved))
    (norms, *_), (_, adamw) = moved.state_of()[0][1:], moved.state_of()
    assert adamw.inner_state.step == [3, 2, 3]
    assert len({x.data_ptr() for x in (*norms, *adamw.inner_state.step)}) == 6


def test_a_parameter_that_changes_groups_takes_its_count_along():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = optim.TransformOptimizer([a, b], fx.nadam(lr=0.1))
    twins = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    plain = optim.NAdam(twins, lr=0.1)

    def steps(count):
        for _ in range(count):
            for p in (a, b, *twins):
                p.grad = torch.ones(2)
            optimizer.step()
            plain.step()

    steps(2)
    optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [b]})
    steps(3)
    assert optimizer.state[a]["step"] == optimizer.state[b]["step"] == 5
    assert_equal([a, b], twins)


def test_a_checkpoint_of_another_transformation_is_refused():
    params = some_params()
    optimizer, other = optim.TransformOptimizer(params, fx.adamw()), optim.TransformOptimizer(params, fx.lion())
    for each in (optimizer, other):
        gradients(params, 0)
        each.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"no 'exp_avg_sq' for a parameter.* but 'step', 'exp_avg'.*by another"):
        optimizer.load_state_dict(other.state_dict())
    assert_same_value(before, optimizer.state_dict(), rtol=0, atol=0)
    gradients(params, 2)
    optimizer.step()


@each
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # torch's, of what is meant here
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_torchs_state_dicts_by_name(tx, flat, tmp_path):
    """Through a distributed checkpoint on disk, into an optimizer that has not stepped, of a model that has other
    values; one parameter has sat out a step."""

    def run(model, optimizer, steps):
        for i in steps:
            gradients([*model.parameters()], i)
            optimizer.step()

    def made():
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        return model, optim.TransformOptimizer(model.parameters(), tx)

    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = made()
    run(model, optimizer, range(3))
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path, no_dist=True)
    moved, its = made()
    weights, state = get_state_dict(moved, its, options=options)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(moved, its, model_state_dict=weights, optim_state_dict=state, options=options)
    assert_equal(its.state_of(), optimizer.state_of())
    for each_model, each_optimizer in ((model, optimizer), (moved, its)):
        run(each_model, each_optimizer, range(3, 5))
    assert_equal([p.detach() for p in moved.parameters()], [p.detach() for p in model.parameters()])


@pytest.mark.thorough(lambda tx, begun: begun and tx is not next(iter(TRANSFORMS.values())))
@each
@pytest.mark.parametrize("begun", [False, True], ids=["from the first", "begun"])
def test_a_step_is_one_graph(tx, begun, fresh_compiler):
    """And what it leaves is what a step outside of torch.compile goes on from."""
    params = some_params()
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    compiled, eager = optim.TransformOptimizer(params, tx), optim.TransformOptimizer(others, tx)
    step = torch.compile(lambda: compiled.step(), fullgraph=True, backend="eager")
    for i, how in enumerate([compiled.step if begun else step, step, compiled.step, step], start=2):
        gradients(params, i)
        gradients(others, i)
        how()
        eager.step()
    torch.testing.assert_close(params, others, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("info", [i for i in DB if not i.step_requires_closure], ids=lambda i: i.optim_cls.__name__)
@pytest.mark.parametrize("whose", ["torch's", "ours"])
@pytest.mark.parametrize("groups", [1, 2])
def test_as_transformation_goes_on(info, whose, groups):
    """Three more steps of the pure transformation are three more of the optimizer, which shares nothing with it."""
    cls, options = info.optim_cls if whose == "torch's" else CLASSES[info.optim_cls], richest(info)
    shapes = [(4, 3), (2, 3)] if info.only_supports_sparse_grads else [p.shape for p in parameters(info)[:2]]
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    given = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(params)] if groups == 2 else params
    optimizer = cls(given, **copy.deepcopy(options))
    run(info, optimizer, params, 3)
    tx, state = fx.optim.as_transformation(optimizer)
    kept, pure = clone(state), [p.detach().clone() for p in params]
    for i in range(3):
        torch.manual_seed(10 + i)
        give_gradients(info, params)
        grads = [p.grad.clone() for p in params]
        take_step(info, optimizer, params)
        assert_equal(state, kept)
        pure, state = fx.step(tx, grads, state, pure)
        kept = clone(state)
    assert_equal(pure, [p.detach() for p in params], rtol=1e-6, atol=1e-6)


def test_as_transformation_of_lbfgs():
    p = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def rosenbrock(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    optimizer = torch.optim.LBFGS([p], max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = rosenbrock(p)
        loss.backward()
        return loss

    optimizer.step(closure)
    tx, state = fx.optim.as_transformation(optimizer)
    pure = [p.detach().clone()]
    for _ in range(3):
        optimizer.step(closure)
        pure, state = fx.step(
            tx,
            None,
            state,
            pure,
            value_and_grad_fn=lambda x: torch.func.grad_and_value(lambda x: rosenbrock(x[0]))(x)[::-1],
        )
    assert_equal(pure[0], p.detach(), rtol=1e-9, atol=1e-9)


def test_an_unknown_class_is_refused():
    class Mine(torch.optim.SGD):
        pass

    with pytest.raises(TypeError, match="there is no pure algorithm for a Mine"):
        fx.optim.as_transformation(Mine([torch.nn.Parameter(torch.ones(1))]))
    assert pickle.dumps(fx.optim.SGD([torch.nn.Parameter(torch.ones(1))]))


def test_a_rate_that_nothing_injects_is_refused_at_the_step():
    """A group that is given it is refused when it is added; one in which it was written later, at the step."""
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fx.optim.TransformOptimizer([p], fx.adam(lr=0.1))
    p.grad = torch.ones(2)
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match="a group sets 'lr', but adam does not inject its lr"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(2)) and not optimizer.state


def test_a_scheduler_without_a_rate_to_set_says_so():
    optimizer = fx.optim.TransformOptimizer([torch.ones(2, requires_grad=True)], fx.adam(lr=0.1))
    with pytest.raises(KeyError, match=r"param_groups\[0\] has no 'lr'.*inject it"):
        fx.optim.lr_scheduler.StepLR(optimizer, 1)
