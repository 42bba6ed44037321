"""Graph capture: what ``capturable`` does, the messages where it is missing or useless, and where counts live."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from classes import CLASSES, EVERY, assert_same_value, by_class, give_gradients, parameters, take_step

from optimfx.optim.adapter.scalar_columns import ScalarColumn

CAPTURABLE = [info for info in EVERY if info.has_capturable_arg]


def needs_a_gpu(test):
    without = not torch.cuda.is_available()
    return pytest.mark.cuda(pytest.mark.skipif(without, reason="CUDA graphs are captured on a GPU only")(test))


@pytest.fixture(params=[False, True], ids=["uncaptured", "captured"])
def capturing(request, monkeypatch):
    """As if there were a GPU, whose stream is being captured or not; nothing is computed on it."""
    stream = SimpleNamespace(is_capturing=lambda: request.param)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **options: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda *args: stream)
    return request.param


def said(optimizer):
    """Return the warnings or errors of two steps without gradients."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            for _ in range(2):
                optimizer.step()
        except RuntimeError as error:
            return [str(error)]
    return [str(warning.message) for warning in record]


@by_class(CAPTURABLE)
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("copying", [lambda optimizer: optimizer, copy.deepcopy], ids=["itself", "copy"])
def test_a_step_looks_whether_it_is_captured(info, capturing, capturable, copying):
    """In torch's words: capture without ``capturable`` is an error; ``capturable`` without capture warns once.

    A fresh optimizer holds its tongue: it counts as warned already.
    """
    theirs, ours = (
        said(copying(cls([torch.nn.Parameter(torch.ones(2))], capturable=capturable)))
        for cls in (info.optim_cls, CLASSES[info.optim_cls])
    )
    assert ours == theirs
    expected = "but param_groups' capturable is False" if capturing else "step() is running without CUDA graph capture"
    spoken = not capturable if capturing else capturable and copying is copy.deepcopy
    assert [expected in text for text in ours] == [True] * spoken


@by_class(CAPTURABLE)
@pytest.mark.parametrize("capturable", [False, True])
def test_counts_live_with_the_parameters_if_they_are_captured(info, capturable):
    """And on the host if not, with the other scalars that are the same for all elements of every parameter."""
    p = torch.nn.Parameter(torch.ones(2, 3, device="meta"))
    p.grad = torch.ones_like(p)
    optimizer = CLASSES[info.optim_cls]([p], capturable=capturable)
    optimizer.step()
    for name, value in optimizer.state[p].items():
        shared = name in ("step", "mu_product", "eta", "mu")
        assert value.device.type == ("cpu" if shared and not capturable else "meta"), name


@by_class(CAPTURABLE)
def test_capturable_steps_alike_without_a_graph(info):
    """Also on a CPU, where torch refuses it."""
    runs = []
    for capturable in (False, True):
        torch.manual_seed(0)
        params = parameters(info)
        optimizer = CLASSES[info.optim_cls](params, capturable=capturable)
        for _ in range(3):
            give_gradients(info, params)
            take_step(info, optimizer, params)
        runs.append([p.detach() for p in params])
    assert_same_value(*runs, rtol=0, atol=0)


@by_class(CAPTURABLE)
def test_counts_that_stay_on_their_device_step_each_parameter_by_its_own(info, monkeypatch):
    """As a vector, one for each parameter; a host whose numbers cannot be read takes the place of the device."""
    runs = []
    for vector in (lambda scalars: None, lambda scalars: scalars.packed):
        monkeypatch.setattr(ScalarColumn, "vector", property(vector))
        torch.manual_seed(0)
        params = parameters(info)
        optimizer = CLASSES[info.optim_cls](params)
        for sits_out in (None, params[0], None):
            give_gradients(info, params)
            if sits_out is not None:
                sits_out.grad = None
            take_step(info, optimizer, params)
        runs.append([[p.detach() for p in params], [*optimizer.state.values()]])
    assert_same_value(*runs, rtol=1e-5, atol=1e-6)  # scalars in the kernels' precision, or as numbers


@needs_a_gpu
@by_class(CAPTURABLE)
def test_a_captured_step_is_the_step(info):
    """Replayed with other gradients and another learning rate in the same tensors."""
    params = [torch.nn.Parameter(p.detach().float().cuda()) for p in parameters(info)]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizers = [
        CLASSES[info.optim_cls](x, lr=torch.tensor(0.01, device="cuda"), capturable=True) for x in (params, others)
    ]
    graph = torch.cuda.CUDAGraph()
    give_gradients(info, params, others)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # where the state is made, and kernels are compiled
        optimizers[0].step()
    torch.cuda.current_stream().wait_stream(side)
    optimizers[1].step()
    with torch.cuda.graph(graph):
        optimizers[0].step()
    for i in range(3):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"].fill_(0.01 / (i + 1))
        for p, q in zip(params, others):
            p.grad.copy_(torch.randn_like(p))
            q.grad.copy_(p.grad)
        graph.replay()
        optimizers[1].step()
        assert_same_value([p.detach() for p in params], [q.detach() for q in others], rtol=1e-5, atol=1e-6)
    assert_same_value([*optimizers[0].state.values()], [*optimizers[1].state.values()], rtol=1e-5, atol=1e-6)


@needs_a_gpu
@by_class(CAPTURABLE)
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # since the step is refused
def test_a_capture_without_capturable_is_refused(info):
    p = torch.nn.Parameter(torch.ones(2, 3, device="cuda"))
    p.grad = torch.ones_like(p)
    optimizer = CLASSES[info.optim_cls]([p])
    with pytest.raises(RuntimeError, match="capturable is False"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()
