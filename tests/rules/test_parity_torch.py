"""``step`` against torch.optim with ``foreach=False``: bit for bit."""

import inspect
from contextlib import contextmanager
from dataclasses import replace

import optree
import pytest
import torch
from catalogue import ALGORITHMS, Row, cases
from torch.testing._internal.common_optimizers import optim_db
from trees import leaves, random_like

import optimfx as fx

COMPLEX_IN_TORCH = [info.optim_cls for info in optim_db if info.supports_complex]
IN_TORCH = [row for row in ALGORITHMS if row.torch_class is not None and not row.evaluates]


def with_torch(where=lambda row, options: True, column=""):
    """Parameterise over what torch has, with the options to compare on."""
    table = [replace(row, options=row.torch_options or row.options) for row in IN_TORCH]
    return cases(table, where, column)


def assert_same_run(row: Row, options: dict, dtype: torch.dtype, grads_of=random_like, steps: int = 50) -> None:
    """Parameters and every state tensor equal torch's after every step."""
    with default_dtype(torch.float64 if row.carries else torch.float32):
        _assert_same_run(row, options, dtype, grads_of, steps)


def torchs(row: Row, params: list, **options) -> torch.optim.Optimizer:
    """torch's class, leaf by leaf; of the rest of the classes there is only one way to run."""
    one_by_one = {"foreach": False} if "foreach" in inspect.signature(row.torch_class).parameters else {}
    return row.torch_class(params, **one_by_one, **options)


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Bit for bit, except for the kind of NaN."""
    return (x.dtype, x.shape) == (y.dtype, y.shape) and torch.allclose(x, y, rtol=0, atol=0, equal_nan=True)


def _assert_same_run(row: Row, options: dict, dtype: torch.dtype, grads_of, steps: int) -> None:
    params = [torch.randn(shape, dtype=dtype) for shape in row.torch_shapes]
    theirs = [torch.nn.Parameter(p.clone()) for p in params]
    optimizer = torchs(row, theirs, **options)
    tx = row(**options)
    state = tx.init(params)
    for _ in range(steps):
        grads = grads_of(params)
        for p, g in zip(theirs, grads):
            p.grad = row.torch_grad(g)
        optimizer.step()
        params, state = fx.step(tx, grads, state, params)
        for i, (ours, their) in enumerate(zip(params, theirs)):
            assert equal(ours, their)
            for key, value in optimizer.state[their].items():
                if value is not None:
                    kept = getattr(state, key)[i]
                    assert equal(kept, torch.as_tensor(value, dtype=kept.dtype)), key


@with_torch(column="torch")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_step_is_bit_equal_to_torch(row, options, dtype, figure):
    assert_same_run(row, options, dtype)
    figure(0.0)


def not_all_finite(params):
    """Random gradients with NaN and both infinities in front."""
    grads = random_like(params)
    for grad in grads:
        first = grad.view(-1)[:3]
        first[:] = torch.tensor([torch.nan, torch.inf, -torch.inf])[: len(first)]
    return grads


@with_torch(where=lambda row, options: options == row.richest)
def test_not_finite_where_torch_is_not(row, options):
    assert_same_run(row, options, torch.float32, not_all_finite, steps=4)


@with_torch(where=lambda row, options: row.torch_class in COMPLEX_IN_TORCH)
def test_complex_is_bit_equal_to_torch_on_pairs_of_reals(row, options):
    """And within 8 ulp a step of torch on complex tensors, whose complex ``add(alpha=)`` rounds once more."""
    with default_dtype(torch.float64 if row.carries else torch.float32):
        assert_same_complex_run(row, options)


def assert_same_complex_run(row, options):
    steps = 10
    params = [torch.randn(shape, dtype=torch.complex128) for shape in row.torch_shapes]
    pairs = [torch.nn.Parameter(torch.view_as_real(p).clone()) for p in params]
    whole = [torch.nn.Parameter(p.clone()) for p in params]
    on_pairs, on_whole = torchs(row, pairs, **options), torchs(row, whole, **options)
    tx = row(**options)
    state = tx.init(params)
    for _ in range(steps):
        grads = random_like(params)
        for pair, one, g in zip(pairs, whole, grads):
            pair.grad, one.grad = torch.view_as_real(g).clone(), g.clone()
        on_pairs.step()
        on_whole.step()
        params, state = fx.step(tx, grads, state, params)
    for p, pair, one in zip(params, pairs, whole):
        assert torch.equal(torch.view_as_real(p), pair)
        tolerance = 8 * steps * torch.finfo(torch.float64).eps
        torch.testing.assert_close(p, one.detach(), rtol=tolerance, atol=tolerance)


def _optim_db() -> list:
    """The option sets of torch's own tests, for the algorithms that are here."""
    table = {row.torch_class: row for row in IN_TORCH}
    return [
        pytest.param(table[info.optim_cls], case.kwargs, id=f"{info.optim_cls.__name__}-{case.desc.replace(' ', '_')}")
        for info in optim_db
        if info.optim_cls in table
        for case in info.optim_inputs_func(device="cpu")
        if not {"differentiable", "capturable", "fused", "foreach"} & case.kwargs.keys()
    ]


@pytest.mark.parametrize("row, options", _optim_db())
def test_options_of_torchs_own_tests(row, options):
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(options.get("lr"), torch.Tensor):
        # torch carries a float32 lr on in float32; here its value is carried on in float64.
        options["lr"] = options["lr"].double()
    assert_same_run(row, options, torch.float64)


@with_torch(column="float64 error")
def test_error_against_float64_is_not_above_torchs(row, options, figure):
    """The same run in float64 is the truth; float32 may not be further from it than torch's."""
    exact = [row.randn(64, dtype=torch.float64) for _ in range(4)]
    ours = [p.float() for p in exact]
    theirs = [torch.nn.Parameter(p.float()) for p in exact]
    exact = [p.double() for p in ours]
    optimizer = torchs(row, theirs, **options)
    tx = row(**options)
    state, state64 = tx.init(ours), tx.init(exact)
    for _ in range(20):
        grads = random_like(ours)
        for p, g in zip(theirs, grads):
            p.grad = row.torch_grad(g)
        optimizer.step()
        ours, state = fx.step(tx, grads, state, ours)
        exact, state64 = fx.step(tx, [g.double() for g in grads], state64, exact)
    error = sum((a.double() - b).abs().sum() for a, b in zip(ours, exact))
    torchs_error = sum((a.detach().double() - b).abs().sum() for a, b in zip(theirs, exact))
    figure(float(error / torchs_error))
    assert error <= torchs_error


@cases()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_update_then_apply_is_step(row, options, dtype):
    """Within 4 ulp of the larger of parameter and increment, after one step from the same state."""
    tx = row(**options)
    params = row.params(dtype)
    state = tx.init(params)
    for _ in range(3):
        params, state = fx.step(tx, random_like(params), state, params)
    grads = random_like(params)
    stepped, after = fx.step(tx, grads, state, params)
    updates, after_update = tx.update(grads, state, params)
    applied = fx.apply_updates(params, updates)
    for p, u, a, b in zip(leaves(params), leaves(updates), leaves(stepped), leaves(applied)):
        scale = torch.maximum(p.abs(), u.abs())
        assert ((a - b).abs() <= 4 * torch.finfo(dtype).eps * scale).all()
    for a, b in zip(leaves(after), leaves(after_update)):
        assert torch.equal(a, b)
    assert optree.tree_structure(after) == optree.tree_structure(after_update)
