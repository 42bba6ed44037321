"""Optimizers of matrices beside the papers' algorithms, written out plainly in float64."""

import pytest
import torch

import optimfx as fx

F64 = torch.float64


def newton_schulz(m, steps, a=3.4445, b=-4.7750, c=2.0315):
    x = m / max(m.norm().item(), 1e-7)
    x = x.T if m.shape[0] > m.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if m.shape[0] > m.shape[1] else x


def normuon(param, grads, lr, beta1, beta2, decay, eps, steps):
    """Algorithm 1 of Li et al., 2025."""
    rows, columns = param.shape
    m, v = torch.zeros_like(param), torch.zeros(rows, dtype=F64)
    for g in grads:
        m = beta1 * m + (1 - beta1) * g
        o = newton_schulz(m, steps)
        v = beta2 * v + (1 - beta2) * o.square().mean(1)
        o = o / (v.sqrt() + eps)[:, None]
        rate = 0.2 * lr * (rows * columns) ** 0.5 / o.norm()
        param = param - lr * decay * param - rate * o
    return param


def adamuon(param, grads, lr, beta, decay, eps, steps):
    """Algorithm 1 of Si et al., 2025."""
    rows, columns = param.shape
    m, v = torch.zeros_like(param), torch.zeros_like(param)
    for g in grads:
        m = beta * m + (1 - beta) * g
        o = newton_schulz(m.sign(), steps)
        v = beta * v + (1 - beta) * o.square()
        o = o / (v.sqrt() + eps)
        param = param - lr * decay * param - 0.2 * lr * (rows * columns) ** 0.5 / o.norm() * o
    return param


def scion(param, grads, lr, beta, scale, steps, norm, constrained):
    """Algorithms 1 and 2 of Pethick et al., 2025, for one layer."""
    rows, columns = param.shape
    m = torch.zeros_like(param)
    for g in grads:
        m = beta * m + (1 - beta) * g
        d = m.sign() / columns if norm == "sign" else (rows / columns) ** 0.5 * newton_schulz(m, steps)
        param = (1 - lr if constrained else 1) * param - lr * scale * d
    return param


def dion(param, grads, lr, mu, decay, rank):
    """Algorithm 1 of Ahn et al., 2025, from the first unit vectors."""
    rows, columns = param.shape
    m, q = torch.zeros_like(param), torch.eye(columns, dtype=F64)[:, : min(rank, rows, columns)]
    for g in grads:
        b = m + g
        p = torch.linalg.qr(b @ q)[0]
        r = b.T @ p
        m = b - (1 - mu) * p @ r.T
        q = r / r.norm(dim=0)
        param = param - lr * decay * param - lr * (rows / columns) ** 0.5 * p @ q.T
    return param


def descending(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


def soap(param, grads, lr, beta1, beta2, beta, decay, eps, every):
    """Algorithm 3 of Vyas et al., 2024, with Adam's corrections and a shift."""
    rows, columns = param.shape
    m, v = torch.zeros_like(param), torch.zeros_like(param)
    left, right = torch.zeros(rows, rows, dtype=F64), torch.zeros(columns, columns, dtype=F64)
    q_left, q_right = torch.eye(rows, dtype=F64), torch.eye(columns, dtype=F64)
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        turned = q_left.T @ g @ q_right
        v = beta2 * v + (1 - beta2) * turned.square()
        n = (q_left.T @ m @ q_right / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        param = param - lr * decay * param - lr * q_left @ n @ q_right.T
        left = beta * left + (1 - beta) * g @ g.T
        right = beta * right + (1 - beta) * g.T @ g
        if (t - 1) % every == 0:
            q_left, q_right = (
                torch.linalg.qr((factor + 1e-4 * factor.norm() * torch.eye(len(factor), dtype=F64)) @ q)[0]
                for factor, q in ((left, q_left), (right, q_right))
            )
    return param


def kron(param, grads, lr, momentum, decay, rate, every, longest=10_000):
    """PSGD's whitening with symmetric roots of both sides, without noise."""
    sides = [side <= longest for side in param.shape]
    roots = [torch.eye(side, dtype=F64) for side in param.shape]
    bounds, m = [0.0, 0.0], torch.zeros_like(param)
    for t, g in enumerate(grads, 1):
        if t == 1:
            scale = g.square().mean() ** (-1 / 4 / max(1, sum(sides)))
            roots = [scale * q if there else q for q, there in zip(roots, sides)]
        if (t - 1) % every == 0:
            white = roots[0] @ roots[0] @ g @ roots[1] @ roots[1]
            for i, w in enumerate((white, white.T)):
                if sides[i]:
                    gram, identity = w @ w.T, torch.eye(len(w), dtype=F64)
                    x = gram[gram.norm(dim=1).argmax()]
                    top = (gram @ x).norm() / x.norm() + w.shape[1]
                    bounds[i] = max(0.9 * bounds[i] + 0.1 * top, top)
                    half = identity - rate / 2 / bounds[i] * (gram - w.shape[1] * identity)
                    roots[i] = half @ roots[i] @ half
        m = momentum * m + (1 - momentum) * g
        step = roots[0] @ roots[0] @ (m / (1 - momentum**t)) @ roots[1] @ roots[1]
        param = param - lr * decay * param - lr * step
    return param


def shampoo(param, grads, lr, beta1, beta2, decay, eps, every, grafting):
    """Gupta et al., 2018, on averages, with the norms of another algorithm (Anil et al., 2020)."""
    rows, columns = param.shape
    m, v = torch.zeros_like(param), torch.zeros_like(param)
    left, right = torch.zeros(rows, rows, dtype=F64), torch.zeros(columns, columns, dtype=F64)

    def root(matrix):
        values, vectors = descending(matrix)
        return vectors @ torch.diag(values.clamp(min=eps * values[0].item()) ** -0.25) @ vectors.T

    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g.square()
        left = beta2 * left + (1 - beta2) * g @ g.T
        right = beta2 * right + (1 - beta2) * g.T @ g
        if (t - 1) % every == 0:
            l_root, r_root = root(left / (1 - beta2**t)), root(right / (1 - beta2**t))
        first = m / (1 - beta1**t)
        u = l_root @ first @ r_root
        other = {"sgd": first, "adam": first / ((v / (1 - beta2**t)).sqrt() + 1e-8), None: u}[grafting]
        param = param - lr * decay * param - lr * other.norm() / u.norm() * u
    return param


RUNS = {
    "normuon": (
        fx.normuon(lr=0.1, betas=(0.9, 0.8), weight_decay=0.2, eps=1e-4, ns_steps=4, ns_dtype=None),
        lambda param, grads: normuon(param, grads, 0.1, 0.9, 0.8, 0.2, 1e-4, 4),
    ),
    "adamuon": (
        fx.adamuon(lr=0.1, momentum=0.9, weight_decay=0.2, eps=1e-4, ns_steps=4, ns_dtype=None),
        lambda param, grads: adamuon(param, grads, 0.1, 0.9, 0.2, 1e-4, 4),
    ),
    "dion": (
        fx.dion(lr=0.1, momentum=0.9, weight_decay=0.2, rank=3),
        lambda param, grads: dion(param, grads, 0.1, 0.9, 0.2, 3),
    ),
    **{
        f"scion, {norm}, {constrained}": (
            fx.scion(lr=0.1, momentum=0.9, scale=3.0, norm=norm, constrained=constrained, ns_steps=4, ns_dtype=None),
            lambda param, grads, how=(norm, constrained): scion(param, grads, 0.1, 0.9, 3.0, 4, *how),
        )
        for norm in ("spectral", "sign")
        for constrained in (False, True)
    },
    "kron": (
        fx.kron(lr=0.1, momentum=0.8, weight_decay=0.2, precond_lr=0.4),
        lambda param, grads: kron(param, grads, 0.1, 0.8, 0.2, 0.4, 1),
    ),
    "kron of a side, now and then": (
        fx.kron(lr=0.1, weight_decay=0.2, precondition_frequency=3, max_precond_dim=4),
        lambda param, grads: kron(param, grads, 0.1, 0.9, 0.2, 0.1, 3, 4),
    ),
    "soap": (
        fx.soap(lr=0.1, betas=(0.9, 0.8), shampoo_beta=0.7, weight_decay=0.2, eps=1e-4, precondition_frequency=3),
        lambda param, grads: soap(param, grads, 0.1, 0.9, 0.8, 0.7, 0.2, 1e-4, 3),
    ),
    **{
        f"shampoo with {grafting}": (
            fx.shampoo(
                lr=0.1, betas=(0.9, 0.8), weight_decay=0.2, eps=1e-2, precondition_frequency=3, grafting=grafting
            ),
            lambda param, grads, grafting=grafting: shampoo(param, grads, 0.1, 0.9, 0.8, 0.2, 1e-2, 3, grafting),
        )
        for grafting in ("adam", "sgd", None)
    },
}


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5), (5, 5)], ids=str)
@pytest.mark.parametrize("name", RUNS)
def test_a_rule_is_the_papers_algorithm(name, shape):
    tx, paper = RUNS[name]
    param, grads = torch.randn(shape, dtype=F64), torch.randn(10, *shape, dtype=F64)
    expected = paper(param, grads)
    state = tx.init([param])
    for g in grads:
        (param,), state = fx.step(tx, [g], state, [param])
    # A decomposition of what is nearly singular makes thousands of a rounding.
    close = 1e-9 if name.partition(" ")[0] in ("dion", "soap", "shampoo") else 1e-12
    torch.testing.assert_close(param, expected, rtol=close, atol=close)


@pytest.mark.parametrize("factory", [fx.soap, fx.shampoo])
def test_a_long_side_is_left_as_it_is(factory):
    """It has no slots; the other side has."""
    tx = factory(0.1, max_precond_dim=4)
    params = [torch.randn(4, 6), torch.randn(5, 3)]
    state = tx.init(params)
    assert (state.row_factor[1], state.column_factor[0]) == ((), ())
    assert (state.row_factor[0].shape, state.column_factor[1].shape) == ((4, 4), (3, 3))
    after, _ = fx.step(tx, params, state, params)
    assert all(torch.isfinite(p).all() for p in after)


def test_one_side_alone_has_a_square_root():
    tx = fx.shampoo(1.0, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, max_precond_dim=3, grafting=None)
    grad = torch.randn(3, 5, dtype=F64)
    update, _ = tx.update(grad, tx.init(grad))
    left, _, right = torch.linalg.svd(grad, full_matrices=False)
    torch.testing.assert_close(update, -left @ right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factory", [fx.soap, fx.shampoo, fx.kron])
def test_gradients_that_vanish_or_are_not_finite(factory):
    """No step is taken along zeros, and what is not finite shows in the parameters, not in an error of LAPACK's."""
    tx, params = factory(0.1, weight_decay=0.0), torch.randn(3, 2)
    still, state = fx.step(tx, torch.zeros(3, 2), tx.init(params), params)
    assert torch.equal(still, params)
    broken, _ = fx.step(tx, torch.full((3, 2), torch.nan), state, still)
    assert broken.isnan().all()


def test_fewer_steps_than_adamw_to_a_small_loss_of_an_ill_conditioned_regression():
    """Each at its best rate: a linear map of inputs whose scales go over two decades, in no particular directions."""
    torch.manual_seed(0)
    size, most = 16, 600
    target, turn = torch.randn(size, size), torch.linalg.qr(torch.randn(size, size))[0]
    inputs = (torch.randn(256, size) * torch.logspace(0, -2, size)) @ turn

    def steps_to(levels, factory):
        fewest = dict.fromkeys(levels, most)
        for lr in (0.03, 0.1, 0.3, 1.0):
            tx = factory(fx.schedules.cosine_annealing(lr, most), weight_decay=0.0)
            weight, left = torch.zeros(size, size), sorted(levels)
            state = tx.init(weight)
            for step in range(fewest[left[0]]):
                error = inputs @ (weight - target).T
                while left and error.square().mean() < left[-1]:
                    level = left.pop()
                    fewest[level] = min(fewest[level], step)
                if not left:
                    break
                weight, state = fx.step(tx, error.T @ inputs / 256, state, weight)
        return list(fewest.values())

    matrix_rules = (fx.muon, fx.normuon, fx.adamuon, fx.soap, fx.shampoo, fx.kron)
    few = {factory.__name__: steps_to((1e-4, 1e-2), factory) for factory in (fx.adamw, *matrix_rules)}
    small, large = few.pop("adamw")
    assert all(steps[0] < small for steps in few.values()), few
    assert few["shampoo"][1] < large, few
    assert all(steps[1] > large for name, steps in few.items() if name != "shampoo"), few
