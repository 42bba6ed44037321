"""Behaviours of a step that users of torch.optim rely on: flags, groups, gradients of every kind, closures."""

import copy
import inspect

import pytest
import torch
from classes import (
    CLASSES,
    DB,
    EVERY,
    assert_same_value,
    by_class,
    give_gradients,
    pair,
    parameters,
    richest,
    some_params,
    take_step,
)

import optimfx.optim as optim

DENSE = [info for info in EVERY if not info.step_requires_closure and not info.only_supports_sparse_grads]
TENSORS = [info for info in DENSE if info in DB]  # of torch's
CLOSE = dict(rtol=1e-6, atol=1e-6)


def values(params):
    return [p.detach() for p in params]


def flagged(info, *flags):
    return set(flags) <= set(info.supported_impls)


def cases(infos):
    return [
        pytest.param(info, case.kwargs, id=f"{info.optim_cls.__name__}-{case.desc}".replace(" ", "_"))
        for info in infos
        for case in info.optim_inputs_func(device="cpu")
        if "capturable" not in case.kwargs and not isinstance(case.kwargs.get("lr"), torch.Tensor)
    ]


@pytest.mark.parametrize("info, options", cases([i for i in DENSE if flagged(i, "foreach")]))
def test_every_way_to_run_is_the_same(info, options):
    """Seven steps, parameters and every state entry: foreach is the loop, bit for bit.

    The default may be torch's own kernel, which differs by up to 4 ulp a step.
    """
    params = parameters(info, torch.float32)
    runs = []
    for flags in ({"foreach": False}, {"foreach": True}, {}):
        copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
        optimizer = CLASSES[info.optim_cls](copies, **options, **flags)
        torch.manual_seed(0)
        for _ in range(7):
            give_gradients(info, copies)
            optimizer.step()
        runs.append((values(copies), [optimizer.state.get(p, {}) for p in copies]))
    by_loop, by_foreach, by_default = map(list, runs)
    assert_same_value(by_loop, by_foreach, rtol=0, atol=0)
    ulps = 4 * 7 * torch.finfo(torch.float32).eps
    assert_same_value(by_loop, by_default, rtol=ulps, atol=ulps)


@by_class([i for i in TENSORS if flagged(i, "fused")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_fused_is_torchs_fused(info, dtype):
    """On a CPU, parameters and state: to 4 ulp of their dtype a step, as torch's own kernel differs from its loop."""
    (their_params, theirs), (our_params, ours) = pair(info, parameters(info, dtype), fused=True)
    for _ in range(5):
        give_gradients(info, their_params, our_params)
        theirs.step()
        ours.step()
    tolerance = 20 * torch.finfo(dtype).eps
    assert_same_value(values(their_params), values(our_params), rtol=tolerance, atol=tolerance)
    for p, q in zip(their_params, our_params):
        assert_same_value(theirs.state.get(p, {}), ours.state.get(q, {}), rtol=tolerance, atol=tolerance)
    assert ours.param_groups[0]["fused"] is True


# Adagrad's state is made with it, on the meta device too, as in torch.
@by_class([i for i in TENSORS if flagged(i, "fused") and i.optim_cls is not torch.optim.Adagrad])
def test_fused_on_the_meta_device_says_so_and_works_afterwards(info):
    with torch.device("meta"):
        model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2, device="meta")).sum().backward()
    optimizer = CLASSES[info.optim_cls](model.parameters(), fused=True)
    with pytest.raises(RuntimeError, match="`fused=True` requires all the params to be floating point Tensors of"):
        optimizer.step()
    model.to_empty(device="cpu")
    optimizer.param_groups[0]["params"] = list(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


@by_class([i for i in DENSE if i.supports_complex])
def test_complex_is_the_run_on_its_parts(info):
    """Mixed with a real parameter in one optimizer."""
    cls = CLASSES[info.optim_cls]
    z, x = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.complex128)), torch.nn.Parameter(torch.randn(4).double())
    parts, y = torch.nn.Parameter(torch.view_as_real(z.detach()).clone()), torch.nn.Parameter(x.detach().clone())
    whole, split = cls([z, x]), cls([parts, y])
    for _ in range(4):
        z.grad, x.grad = torch.randn_like(z), torch.randn_like(x)
        parts.grad, y.grad = torch.view_as_real(z.grad).clone(), x.grad.clone()
        whole.step()
        split.step()
        assert torch.equal(torch.view_as_real(z.detach()), parts) and torch.equal(x, y)


@by_class([i for i in TENSORS if i.supports_sparse] + [i for i in DB if i.only_supports_sparse_grads])
def test_uncoalesced_sparse_gradients(info):
    (their, theirs), (our, ours) = pair(info, [torch.nn.Parameter(torch.randn(5, 2, dtype=torch.float64))])
    for indices in ([1, 3, 1], [], [0, 3]):
        grad = torch.sparse_coo_tensor(
            torch.tensor([indices], dtype=torch.int64),
            torch.randn(len(indices), 2).double(),
            (5, 2),
            check_invariants=True,
        )
        with torch.sparse.check_sparse_tensor_invariants():
            for params, optimizer in ((their, theirs), (our, ours)):
                params[0].grad = grad.clone()
                optimizer.step()
    assert_same_value(values(their), values(our), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.5}, {"maximize": True}], ids=str)
def test_momentum_of_sparse_gradients(options):
    """Elements that have once had a gradient go on moving."""
    their = torch.nn.Parameter(torch.randn(6, 2, dtype=torch.float64))
    our = torch.nn.Parameter(their.detach().clone())
    optimizers = [
        module.SGD([p], lr=0.1, momentum=0.9, **options) for module, p in ((torch.optim, their), (optim, our))
    ]
    for row in (0, 3, 0, 5):
        values = torch.randn(2, 2, dtype=torch.float64)
        for p, optimizer in zip((their, our), optimizers):
            p.grad = torch.sparse_coo_tensor([[row, 1]], values, (6, 2), check_invariants=True)
            optimizer.step()
    torch.testing.assert_close(our, their, rtol=1e-12, atol=1e-12)


@by_class([i for i in TENSORS if not i.supports_sparse])
def test_sparse_gradients_are_refused_in_torchs_words(info):
    def said(cls):
        p = torch.nn.Parameter(torch.randn(5, 2))
        p.grad = torch.eye(5, 2).to_sparse()
        before = p.detach().clone()
        with pytest.raises(RuntimeError) as error:
            cls([p]).step()
        assert torch.equal(p, before)
        return str(error.value)

    assert said(CLASSES[info.optim_cls]) == said(info.optim_cls)


@by_class(DENSE)
@pytest.mark.parametrize("foreach", [None, False, True])
def test_a_parameter_twice_in_a_group_is_stepped_twice(info, foreach):
    """Each time again, as torch's loop does, whatever runs here."""
    if foreach is not None and "foreach" not in info.supported_impls:
        pytest.skip("no such flag")
    options = {} if foreach is None else {"foreach": foreach}
    a, b = (torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (2, 2)))
    runs = []
    for cls, flags in ((info.optim_cls, {"foreach": False} if options else {}), (CLASSES[info.optim_cls], options)):
        params = [torch.nn.Parameter(x.detach().clone()) for x in (a, b)]
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = cls([params[0], params[1], params[0]], **flags)
        torch.manual_seed(0)
        for _ in range(3):
            give_gradients(info, params)
            optimizer.step()
        runs.append([values(params), [optimizer.state.get(p, {}) for p in params]])
    assert_same_value(*runs, **CLOSE)
    if CLASSES[info.optim_cls].counts:
        assert [state["step"].item() for state in runs[1][1]] == [6, 3]


@by_class(TENSORS)
def test_groups_have_hyperparameters_of_their_own(info):
    """A group with almost no learning rate stays, bit for bit, while the other moves; torch's numbers for both."""
    shape = (4, 3)
    runs = []
    for cls in (info.optim_cls, CLASSES[info.optim_cls]):
        torch.manual_seed(0)
        still, moving = (torch.nn.Parameter(torch.randn(shape)) for _ in range(2))
        before = still.detach().clone()
        tiny = {"lr": 1e-30, **({"step_sizes": (0, 1e-30)} if info.optim_cls is torch.optim.Rprop else {})}
        optimizer = cls([{"params": [still], **tiny}, {"params": [moving]}])
        for _ in range(3):
            give_gradients(info, [still])
            give_gradients(info, [moving])
            optimizer.step()
        assert torch.equal(still, before)
        runs.append(moving.detach())
    torch.testing.assert_close(runs[0], runs[1], **CLOSE)


@by_class()
def test_a_tensor_lr_is_the_number(info):
    params = some_params(info)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    by_number = CLASSES[info.optim_cls](params, lr=0.125)
    by_tensor = CLASSES[info.optim_cls](copies, lr=torch.tensor([0.125]))
    for _ in range(4):
        give_gradients(info, params, copies)
        take_step(info, by_number, params)
        take_step(info, by_tensor, copies)
    assert_same_value(values(params), values(copies), rtol=0, atol=0)


@by_class(DENSE)
def test_nothing_to_step(info):
    """Without gradients; and parameters that need none."""
    params = [*parameters(info), torch.ones(2, 2)]
    optimizer = CLASSES[info.optim_cls](params)
    before = copy.deepcopy(params)
    assert optimizer.step() is None
    assert_same_value(values(before), values(params), rtol=0, atol=0)


@by_class(DENSE)
def test_views_are_stepped_in_place(info):
    whole = torch.randn(6, 4)
    p = torch.nn.Parameter(whole.t()[::2])
    twin = torch.nn.Parameter(p.detach().clone())
    optimizers = [CLASSES[info.optim_cls]([x]) for x in (p, twin)]
    give_gradients(info, [p], [twin])
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(p, twin)
    assert torch.equal(whole.t()[::2], p)


@by_class()
@pytest.mark.parametrize("loss", [1, 1.0, torch.tensor(1.0)], ids=["int", "float", "tensor"])
def test_closures_are_called_as_by_torch(info, loss):
    """Run with gradients enabled; what they return comes back, a number too."""
    params = parameters(info)[:1]
    optimizer = CLASSES[info.optim_cls](params)

    def closure():
        assert torch.is_grad_enabled()
        give_gradients(info, params)
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) is loss


DIFFERENTIABLE = [info for info in DENSE if "differentiable" in info.supported_impls]


@by_class(DIFFERENTIABLE)
def test_a_step_can_be_differentiated(info):
    """With respect to the parameter and the gradient, through two steps, against finite differences."""

    def after(p, g):
        p = p.clone()
        optimizer = CLASSES[info.optim_cls]([p], differentiable=True)
        for _ in range(2):
            p.grad = g
            optimizer.step()
        return p

    p = (torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_()
    g = (torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(after, (p, g))


def test_stepping_in_the_backward_pass():
    """One optimizer a parameter, driven by a hook on its gradient, is one optimizer for all."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    optimizers = {p: optim.AdamW([p]) for p in model.parameters()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    whole = optim.AdamW(twin.parameters())
    for _ in range(3):
        x = torch.randn(4, 3)
        model(x).square().sum().backward()
        twin(x).square().sum().backward()
        whole.step()
        whole.zero_grad()
    assert_same_value(values(model.parameters()), values(twin.parameters()), rtol=1e-6, atol=1e-7)


@by_class(TENSORS)
@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_steps_as_with_torch(info, fused):
    """Gradients count unscaled, and a step on an overflow is left out, also where torch's kernel would do both."""
    flags = {"fused": fused} if flagged(info, "fused") else {}
    (their, theirs), (our, ours) = pair(info, [torch.nn.Parameter(torch.randn(2, 3))], **flags)
    for (p,), optimizer in ((their, theirs), (our, ours)):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor in (1.0, float("inf"), 2.0):
            optimizer.zero_grad()
            scaler.scale((p.square() * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2.0
    assert_same_value(values(their), values(our), **CLOSE)
    assert_same_value(theirs.state.get(their[0], {}), ours.state.get(our[0], {}), **CLOSE)


def test_every_step_of_lbfgs_returns_the_first_loss():
    for tolerance in (float("inf"), float("-inf")):
        p = torch.nn.Parameter(torch.ones(2))
        optimizer = optim.LBFGS([p], tolerance_grad=tolerance)

        def closure(p=p, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (p**2).sum()
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        assert isinstance(loss, torch.Tensor) and loss == 2


def test_take_step_is_a_step():
    """The helper that these tests share moves parameters with L-BFGS, too."""
    (info,) = [info for info in DB if info.step_requires_closure]
    params = parameters(info)
    before = copy.deepcopy(params)
    give_gradients(info, params)
    take_step(info, CLASSES[info.optim_cls](params), params)
    assert not torch.equal(before[0], params[0])


def at_rest(info):
    """Options with which a parameter moves by its gradients alone."""
    names = inspect.signature(info.optim_cls).parameters
    return {name: 0.0 for name in ("weight_decay", "lambd", "initial_accumulator_value") if name in names}


@by_class([i for i in EVERY if i.optim_cls is not optim.Fromage])
def test_zero_gradients_change_nothing(info):
    """Where nothing decays, as each step of Fromage does; and they do count as steps."""
    params = some_params(info)
    optimizer = CLASSES[info.optim_cls](params, **at_rest(info))
    before = copy.deepcopy(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p).to_sparse() if info.only_supports_sparse_grads else torch.zeros_like(p)
        take_step(info, optimizer, params)
    assert_same_value(values(before), values(params), rtol=0, atol=0)
    assert all(optimizer.state[p].get("step", 3) == 3 for p in params)


@by_class([i for i in DB if not i.supports_complex or i.only_supports_sparse_grads])
@pytest.mark.parametrize("grad", ["complex", "dense", "sparse"])
def test_a_step_raises_torchs_error_texts(info, grad):
    """Complex numbers and the other layout of gradients; and nothing has changed then."""

    def said(cls):
        p = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.complex64 if grad == "complex" else torch.float32))
        before = p.detach().clone()
        p.grad = torch.ones_like(p).to_sparse() if grad == "sparse" else torch.ones_like(p)
        try:
            cls([p]).step()
        except (ValueError, RuntimeError) as error:
            assert torch.equal(p, before)
            return str(error)

    assert said(CLASSES[info.optim_cls]) == said(info.optim_cls)


@pytest.fixture
def one_thread():
    """For many small steps, in which threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@by_class([i for i in TENSORS if i.supports_sparse] + [i for i in DB if i.only_supports_sparse_grads])
def test_a_long_sparse_run_is_the_dense_one(info):
    """Torch's dense run, row by row, with schedulers; for what takes no dense gradients, torch's sparse one."""
    options, schedulers = info.metadata_for_sparse
    (their, theirs), (our, ours) = pair(info, [torch.nn.Parameter(torch.tensor([[1.5], [1.5]]).double())], **options)
    rates = [[make(optimizer) for make in schedulers] for optimizer in (theirs, ours)]
    for step in range(1800):
        for params, optimizer, chain in ((their, theirs, rates[0]), (our, ours, rates[1])):
            x, y = (value.item() for value in params[0].detach().flatten())
            # The gradient of Rosenbrock's function in one coordinate at a time, uncoalesced.
            slope = -2 * (1 - x) - 4 * x * 100 * (y - x**2) if step % 2 else 200 * (y - x**2)
            row = 0 if step % 2 else 1
            grad = torch.sparse_coo_tensor(
                [[row, row]], [[slope / 4], [slope * 3 / 4]], (2, 1), dtype=torch.float64, check_invariants=True
            )
            dense = params is their and not info.only_supports_sparse_grads
            params[0].grad = grad.to_dense() if dense else grad
            optimizer.step()
            for scheduler in chain:
                scheduler.step(*([slope] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    torch.testing.assert_close(our[0], their[0], rtol=5e-6, atol=5e-6)


@by_class([i for i in EVERY if "maximize" in inspect.signature(i.optim_cls).parameters])
@pytest.mark.parametrize("foreach", [False, True])
def test_maximize_climbs(info, foreach):
    """With a scheduler, and a group that decays."""
    names = inspect.signature(info.optim_cls).parameters
    params = [torch.nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64)) for _ in range(2)]
    decaying = {"weight_decay": 0.01} if "weight_decay" in names else {}
    flags = {"foreach": foreach} if "foreach" in names else {}
    optimizer = CLASSES[info.optim_cls](
        [{"params": params[0]}, {"params": params[1], **decaying}], lr=0.01, maximize=True, **flags
    )
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    heights = []
    for _ in range(10):
        height = -sum((p - 5).square().sum() for p in params)
        heights.append(height.item())
        for p, grad in zip(params, torch.autograd.grad(height, params)):
            p.grad = grad.to_sparse() if info.only_supports_sparse_grads else grad
        optimizer.step()
        scheduler.step()
    assert heights == sorted(heights) and heights[0] < heights[-1]


def with_state(info, p, g, state, **options):
    """Return the parameter and its state after a step from exactly these."""
    p = p.clone()
    optimizer = CLASSES[info.optim_cls]([p], differentiable=True, **options)
    optimizer.state[p].update({name: value.clone() for name, value in state.items()})
    p.grad = g
    optimizer.step()
    return p, *(value for value in optimizer.state[p].values() if value.requires_grad)


@by_class(DIFFERENTIABLE)
def test_a_step_can_be_differentiated_by_its_state(info):
    """By what was put into the state, against finite differences; the state after the step is on the tape too.

    But for ASGD's scalars, which torch reads as numbers.
    """
    p, g = ((torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_() for _ in range(2))
    options = {**richest(info), **({"amsgrad": True} if "amsgrad" in richest(info) else {}), "lr": 0.1}
    first = CLASSES[info.optim_cls]([torch.nn.Parameter(p.detach())], **options)
    first.param_groups[0]["params"][0].grad = g.detach()
    first.step()
    (state,) = first.state.values()
    numbers = {name: state.pop(name) for name in ("step", "eta", "mu") if name in state}
    # Small, so that no mean is larger than a root mean square.
    slots = {name: (torch.rand_like(value.double()) / 10 + 0.2).requires_grad_() for name, value in state.items()}

    def after(p, g, *values):
        return with_state(info, p, g, {**numbers, **dict(zip(slots, values))}, **options)

    assert len(after(p, g, *slots.values())) == 1 + len(slots)
    assert torch.autograd.gradcheck(after, (p, g, *slots.values()))


NUMBERS = {"lr": 0.1, "betas": (0.8, 0.9), "momentum": 0.8, "weight_decay": 0.1}


@by_class(DIFFERENTIABLE)
def test_two_steps_can_be_differentiated_by_hyperparameters(info):
    """Tensors for lr, betas, momentum and weight_decay, as far as torch's constructors let them in."""
    names = inspect.signature(info.optim_cls).parameters
    tensors = {name: torch.tensor(NUMBERS[name]).double() for name in NUMBERS if name in names and name != "betas"}
    if info.optim_cls in (torch.optim.Adam, torch.optim.AdamW):
        tensors |= {f"beta{i}": torch.tensor(beta).double() for i, beta in enumerate(NUMBERS["betas"])}
    p, g = (torch.rand(3, dtype=torch.float64) + 0.5 for _ in range(2))

    def after(*values):
        options = dict(zip(tensors, values))
        betas = [options.pop(name) for name in list(options) if name.startswith("beta")]
        q = p.clone()
        optimizer = CLASSES[info.optim_cls]([q], differentiable=True, **options, **({"betas": betas} if betas else {}))
        for _ in range(2):
            q.grad = g
            optimizer.step()
        return q

    assert torch.autograd.gradcheck(after, tuple(value.requires_grad_() for value in tensors.values()))
