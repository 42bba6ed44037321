"""What users of torch.optim rely on beyond its signatures: groups, flags, gradients of every kind, hooks."""

import copy
import warnings

import pytest
import torch
from test_optim_classes import CLASSES, DB, assert_same_value, give_gradients, pair, parameters, take_step

import optimfx.optim as optim

TENSORS = [info for info in DB if not info.step_requires_closure and not info.only_supports_sparse_grads]
CLOSE = dict(rtol=1e-6, atol=1e-6)


def by_class(infos):
    return pytest.mark.parametrize("info", infos, ids=lambda info: info.optim_cls.__name__)


def values(params):
    return [p.detach() for p in params]


def flagged(info, flag):
    return flag in info.supported_impls


def cases(infos):
    return [
        pytest.param(info, case.kwargs, id=f"{info.optim_cls.__name__}-{case.desc}".replace(" ", "_"))
        for info in infos
        for case in info.optim_inputs_func(device="cpu")
        if "capturable" not in case.kwargs and not isinstance(case.kwargs.get("lr"), torch.Tensor)
    ]


@pytest.mark.parametrize("info, options", cases([i for i in TENSORS if flagged(i, "foreach")]))
def test_every_way_to_run_is_the_same(info, options):
    """Seven steps, parameters and every state entry: foreach and the default are leaf by leaf, bit for bit."""
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
    for other in runs[1:]:
        assert_same_value(list(runs[0]), list(other), rtol=0, atol=0)


@by_class([i for i in TENSORS if flagged(i, "fused")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_fused_is_torchs_fused(info, dtype):
    """On a CPU: to 4 ulp of the state's dtype a step, as torch's own kernel differs from its loop."""
    (their_params, theirs), (our_params, ours) = pair(info, parameters(info, dtype), fused=True)
    for _ in range(5):
        give_gradients(info, their_params, our_params)
        theirs.step()
        ours.step()
    tolerance = 20 * torch.finfo(dtype).eps
    assert_same_value(values(their_params), values(our_params), rtol=tolerance, atol=tolerance)
    assert [ours.state[p]["step"].dtype for p in our_params if "step" in ours.state.get(p, {})] == [
        theirs.state[p]["step"].dtype for p in their_params if "step" in theirs.state.get(p, {})
    ]


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


@by_class([i for i in TENSORS if i.supports_complex])
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


@by_class(TENSORS)
def test_a_tensor_lr_is_the_number(info):
    params = parameters(info)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    by_number = CLASSES[info.optim_cls](params, lr=0.125)
    by_tensor = CLASSES[info.optim_cls](copies, lr=torch.tensor([0.125]))
    for _ in range(4):
        give_gradients(info, params, copies)
        by_number.step()
        by_tensor.step()
    assert_same_value(values(params), values(copies), rtol=0, atol=0)


@by_class(TENSORS)
def test_nothing_to_step(info):
    """Without gradients; and parameters that need none."""
    params = [*parameters(info), torch.ones(2, 2)]
    optimizer = CLASSES[info.optim_cls](params)
    before = copy.deepcopy(params)
    assert optimizer.step() is None
    assert_same_value(values(before), values(params), rtol=0, atol=0)


@by_class(TENSORS)
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


@by_class(DB)
def test_closures(info):
    """Run with gradients enabled; what they return comes back, a number too."""
    params = parameters(info)[:1]
    optimizer = CLASSES[info.optim_cls](params)

    def closure():
        assert torch.is_grad_enabled()
        give_gradients(info, params)
        return 1.0

    with torch.no_grad():
        assert optimizer.step(closure) == 1.0


DIFFERENTIABLE = [info for info in TENSORS if "differentiable" in info.supported_impls]


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


def test_hooks_may_replace_what_they_are_given():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([p], lr=0.5)
    seen = []
    handle = optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: ((args[0], lambda: seen.append(1)), kwargs)
    )
    optimizer.step()
    assert seen == [1]
    handle.remove()
    optimizer.register_step_pre_hook(lambda *args: 5)
    with pytest.raises(RuntimeError, match="must return None or a tuple of"):
        optimizer.step()
    optimizer.register_state_dict_post_hook(lambda optimizer, state_dict: {**state_dict, "more": 1})
    assert optimizer.state_dict()["more"] == 1
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, state_dict: {**state_dict, "param_groups": [
        {**group, "lr": 0.25} for group in state_dict["param_groups"]
    ]})  # fmt: skip
    optimizer.register_load_state_dict_post_hook(lambda optimizer: seen.append(optimizer.param_groups[0]["lr"]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [1, 0.25]


def test_hooks_fire_once_for_a_subclass():
    optim.Adam([torch.nn.Parameter(torch.ones(1))])  # whose step is wrapped by now

    class Mine(optim.Adam):
        pass

    p = torch.nn.Parameter(torch.ones(1))
    p.grad = torch.ones(1)
    optimizer = Mine([p])
    seen = []
    optimizer.register_step_post_hook(lambda *args: seen.append(1))
    optimizer.step()
    assert len(seen) == 1


def test_profiler_names():
    p = torch.nn.Parameter(torch.ones(1))
    p.grad = torch.ones(1)
    optimizer = optim.Adam([p])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler itself
        with torch.profiler.profile() as profile:
            optimizer.step()
            optimizer.zero_grad()
    names = {event.name for event in profile.events()}
    assert {"Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"} <= names


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


def test_grad_scaler_skips_an_overflow():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * torch.tensor([1.0, float("inf")])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p.detach(), torch.ones(2)) and scaler.get_scale() == 2.0
    optimizer.zero_grad()
    scaler.scale(p.sum()).backward()
    scaler.step(optimizer)
    assert torch.equal(p.detach(), torch.full((2,), 0.5))


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
    """Of the helper that these tests share: L-BFGS moves, too."""
    (info,) = [info for info in DB if info.step_requires_closure]
    params = parameters(info)
    before = copy.deepcopy(params)
    give_gradients(info, params)
    take_step(info, CLASSES[info.optim_cls](params), params)
    assert not torch.equal(before[0], params[0])
