"""Projections beside Optax's, and what a projection is: of the set, and nearest."""

import numpy as np
import optax.projections as theirs
import optax_runs  # noqa: F401 - float64 in JAX
import pytest
import torch

import optimfx as fx
from optimfx import projections as ours

torch.manual_seed(0)
X = {"w": torch.randn(4, 3, dtype=torch.float64), "b": [2 * torch.randn(5, dtype=torch.float64)]}
A = {"w": torch.randn(4, 3, dtype=torch.float64), "b": [torch.randn(5, dtype=torch.float64)]}
BOUNDS = {"w": -0.5, "b": [torch.tensor(0.1, dtype=torch.float64)]}
ARGUMENTS = {
    "projection_non_negative": [()],
    "projection_box": [(-0.5, 0.25), (BOUNDS, 1.0)],
    "projection_hypercube": [(), (0.5,)],
    "projection_simplex": [(), (3.0,)],
    "projection_l1_sphere": [(), (100.0,)],
    "projection_l1_ball": [(), (100.0,)],
    "projection_l2_sphere": [(), (100.0,)],
    "projection_l2_ball": [(), (100.0,)],
    "projection_linf_ball": [(), (0.5,)],
    "projection_vector": [(A,)],
    "projection_hyperplane": [(A, 0.5)],
    "projection_halfspace": [(A, -3.0), (A, 100.0)],
}
cases = pytest.mark.parametrize(
    "name, arguments",
    [pytest.param(name, a, id=f"{name}-{i}") for name in ARGUMENTS for i, a in enumerate(ARGUMENTS[name])],
)


def array(x):
    if isinstance(x, dict):
        return {name: array(value) for name, value in x.items()}
    return [array(value) for value in x] if isinstance(x, list) else np.asarray(x)


def flat(x):
    return np.concatenate([np.ravel(x["w"]), np.ravel(x["b"][0])])


def test_every_projection_is_here():
    assert set(ARGUMENTS) == set(ours.__all__) - {"project"}


@cases
def test_projections_equal_optax(name, arguments):
    """Which takes only trees for the bounds of a box."""
    twin, given = getattr(theirs, name), arguments
    if name in ("projection_box", "projection_hypercube"):
        bounds = arguments if name == "projection_box" else (0.0, *(arguments or [1.0]))
        twin, given = theirs.projection_box, [x if isinstance(x, dict) else {"w": x, "b": [x]} for x in bounds]
    expected = twin(array(X), *map(array, given))
    np.testing.assert_allclose(flat(getattr(ours, name)(X, *arguments)), flat(expected), rtol=1e-12, atol=1e-14)


@cases
def test_a_projection_of_what_is_in_the_set_is_itself(name, arguments):
    once = getattr(ours, name)(X, *arguments)
    np.testing.assert_allclose(flat(getattr(ours, name)(once, *arguments)), flat(once), rtol=1e-12, atol=1e-14)


@cases
def test_projections_under_vmap_and_differentiated(name, arguments):
    def total(x):
        return getattr(ours, name)({"w": x, "b": X["b"]}, *arguments)["w"].square().sum()

    xs = torch.stack([X["w"], -X["w"], 0.1 * X["w"]])
    derivatives = torch.vmap(torch.func.grad(total))(xs)
    torch.testing.assert_close(derivatives, torch.stack([torch.func.grad(total)(x) for x in xs]))
    assert torch.isfinite(derivatives).all()
    assert torch.autograd.gradcheck(total, X["w"].clone().requires_grad_())


def test_none_stays_none_and_the_dtype_stays():
    found = ours.projection_simplex({"w": torch.ones(3, dtype=torch.bfloat16), "b": None})
    assert found["b"] is None
    assert found["w"].dtype == torch.bfloat16


def test_as_the_last_link_it_keeps_parameters_in_the_set():
    tx = fx.chain(fx.adam(0.5), ours.project(ours.projection_l2_ball))
    params = {"w": torch.zeros(3)}
    state = tx.init(params)
    for _ in range(5):
        params, state = fx.step(tx, {"w": torch.tensor([1.0, -1.0, 0.5])}, state, params)
        assert params["w"].norm() <= 1 + 1e-6
    with pytest.raises(ValueError, match="project needs the parameters"):
        tx.update({"w": torch.ones(3)}, state)
