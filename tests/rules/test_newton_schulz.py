"""The polynomials of Muon: what they make of singular values, one triple for all steps or one for each."""

import pytest
import torch

import optimfx as fx
from optimfx.rules._shared.linalg import NEWTON_SCHULZ

F64 = torch.float64


def steps_of(**options):
    """The singular values of the first update of a matrix, beside those of the matrix over its norm."""
    matrix = torch.randn(6, 9, dtype=F64)
    tx = fx.muon(lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, ns_dtype=None, **options)
    update, _ = tx.update(matrix, tx.init(matrix))
    return torch.linalg.svdvals(update), torch.linalg.svdvals(matrix / matrix.norm())


@pytest.mark.parametrize("steps", [1, 3, 9])
@pytest.mark.parametrize("given", [*NEWTON_SCHULZ, (2.0, -1.5, 0.5), [(1.5, -0.5, 0.0), (2.0, -1.5, 0.5)]], ids=str)
def test_singular_values_go_through_the_polynomials(given, steps):
    triples = NEWTON_SCHULZ[given] if isinstance(given, str) else given if isinstance(given, list) else [given]
    found, values = steps_of(ns_coefficients=given, ns_steps=steps)
    for k in range(steps):
        a, b, c = triples[min(k, len(triples) - 1)]
        values = a * values + b * values**3 + c * values**5
    torch.testing.assert_close(found, values.abs().sort(descending=True).values, rtol=1e-12, atol=1e-12)


def test_the_polar_express_converges_and_the_standard_one_does_not():
    assert (steps_of(ns_coefficients="polar_express", ns_steps=8)[0] - 1).abs().max() < 1e-9
    assert (steps_of(ns_coefficients="standard", ns_steps=30)[0] - 1).abs().max() > 0.1


def test_the_class_and_injection_take_them_too():
    p = torch.nn.Parameter(torch.randn(4, 3))
    p.grad = torch.randn(4, 3)
    before = p.detach().clone()
    fx.optim.NorMuon([p], ns_coefficients="polar_express").step()
    tx = fx.normuon(ns_coefficients="polar_express")
    assert torch.equal(p, fx.step(tx, [p.grad], tx.init([before]), [before])[0][0])
    for name in ("polar_express", "dion"):
        optimizer = fx.optim.Muon([p], ns_coefficients=NEWTON_SCHULZ[name])
        before = p.detach().clone()
        optimizer.step()
        tx = fx.muon(ns_coefficients=name)
        assert torch.equal(p, fx.step(tx, [p.grad], tx.init([before]), [before])[0][0])
    injected = fx.inject_hyperparams(fx.muon)(ns_coefficients=[(1.5, -0.5, 0.0), (2.0, -1.5, 0.5)])
    assert injected.init([before]).hyperparams["ns_coefficients"][1][2] == 0.5


@pytest.mark.parametrize(
    "given, kind, match",
    [
        ("polar", ValueError, "ns_coefficients must be one of .*'polar_express'.*, or triples; got 'polar'"),
        ((1.0, 2.0), TypeError, r"ns_coefficients must be \(a, b, c\)"),
        ([(1.0, 2.0, 3.0), (1.0, 2.0)], TypeError, r"ns_coefficients must be \(a, b, c\)"),
        ((1.0, "x", 2.0), TypeError, "must be a number"),
        ((), TypeError, r"ns_coefficients must be \(a, b, c\)"),
    ],
)
def test_other_coefficients_are_refused(given, kind, match):
    with pytest.raises(kind, match=match):
        fx.muon(ns_coefficients=given)
