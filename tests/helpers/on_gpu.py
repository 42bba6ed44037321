"""Helpers of the tests on a GPU: where they run, and what they watch. ``make gpu`` runs them."""

from contextlib import contextmanager
from unittest import mock

import optree
import pytest
import torch

from optimfx.execution.executors.triton.runtime import launch

DEVICE = torch.device("cuda")
BLOCK = launch.BLOCK
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16

marks = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    # Said once of the mode that finds what waits for the device, and of matrix products in float32.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning"),
]


def randn(*shape, dtype=F32):
    return torch.randn(shape, dtype=dtype, device=DEVICE)


def parameters(*dtypes):
    """For each dtype, several chunks with a tail, a matrix and a vector."""
    shapes = [(3 * BLOCK + 3,), (4, 3), (16,)]
    return [torch.nn.Parameter(randn(*shape, dtype=dtype)) for dtype in dtypes or (F32,) for shape in shapes]


def begun(tx, params):
    """The state, its counts on the device too."""
    return optree.tree_map(lambda t: t.to(DEVICE), tx.init(params))


def copies(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def give_gradients(*many):
    """The same to each list of parameters, in memory of their own."""
    for row in zip(*many):
        grad = torch.randn_like(row[0])
        for p in row:
            p.grad = grad.clone()


@contextmanager
def launches():
    """How many leaves each launch of a kernel is for."""
    sizes = []
    launch_ = launch.Launcher.launch

    def counting(self, columns, *scalars):
        if self.kernels.kernel:  # not a norm alone
            sizes.append(len(columns[0]))
        return launch_(self, columns, *scalars)

    with mock.patch.object(launch.Launcher, "launch", counting):
        yield sizes


@contextmanager
def compilations():
    """The kernels that Triton compiles, or loads, because it has none yet for arguments like these."""
    from triton import knobs

    made = []
    with mock.patch.object(knobs.runtime, "jit_post_compile_hook", lambda **told: made.append(told["repr"])):
        yield made


@contextmanager
def no_waiting():
    """Every synchronization is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def delay():
    """Let the stream fall behind the host, by some milliseconds."""
    torch.cuda._sleep(10_000_000)


def captured(run):
    """A graph of what the function does; it does it once before, when kernels are compiled and state begins."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph
