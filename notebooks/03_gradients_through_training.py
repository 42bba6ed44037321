# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradients through training
#
# A step of an optimizer is a function, so $N$ steps are one too, and functions have derivatives. With the update
# $U$ of a step, the loss on the training data $L$ and that on the validation data $V$,
#
# $$
# \theta_{t} = U\big(\theta_{t-1}, \nabla L(\theta_{t-1}); \gamma, \lambda\big), \qquad
# h(\gamma, \lambda) = V\big(\theta_N(\gamma, \lambda)\big),
# $$
#
# the *hypergradient* $\nabla h$ says how the learning rate $\gamma$ and the weight decay $\lambda$ should have been
# chosen. Nothing is approximated: the chain rule goes through every step, every moment of Adam and every gradient,
# whose derivative is a product with the Hessian. This notebook computes it, checks it against finite differences, and
# goes down it. The second half does the same with respect to the parameters that training begins with: MAML.

# %%
import math

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.func import functional_call, grad, grad_and_value, vmap

import optimfx as fx

# %% [markdown]
# ## A training run as a function of its hyperparameters
#
# A small network for scikit-learn's digits, in double precision so that finite differences mean something. Of the 200
# training labels a third are wrong: there is something to gain from decay.

# %%
STEPS = 40

torch.manual_seed(0)
pixels, labels = load_digits(return_X_y=True)
order = torch.randperm(len(pixels))[:600]
x, y = torch.tensor(pixels[order] / 16), torch.tensor(labels[order])
(x_train, x_val), (y_train, y_val) = x.split([200, 400]), y.split([200, 400])
wrong = torch.rand(len(y_train)) < 1 / 3
y_train = torch.where(wrong, torch.randint(10, y_train.shape), y_train)

network = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)).double()
start = {name: p.detach() for name, p in network.named_parameters()}


def loss(params, x, y):
    return torch.nn.functional.cross_entropy(functional_call(network, params, (x,)), y)


# %% [markdown]
# The hyperparameters are tensors, on a logarithmic scale: they are positive, and what matters is their order of
# magnitude. `h` is training as one would write it anyway, with one exception. Some pixels are blank in every image, so
# that some gradients are always zero, and Adam's $\sqrt{v_t}$ has no derivative at zero. A tiny `eps_root` under the
# root gives it one.


# %%
def h(logs):
    """The validation loss after training."""
    tx = fx.adamw(lr=logs["lr"].exp(), weight_decay=logs["weight_decay"].exp(), eps_root=1e-16)
    params, state = start, tx.init(start)
    for _ in range(STEPS):
        params, state = fx.step(tx, grad(loss)(params, x_train, y_train), state, params)
    return loss(params, x_val, y_val)


def point(lr, weight_decay):
    values = {"lr": lr, "weight_decay": weight_decay}
    return {name: torch.tensor(math.log(v), dtype=torch.float64) for name, v in values.items()}


grad(h)(point(0.03, 0.5))

# %% [markdown]
# ## Against finite differences
#
# The derivative of a function whose values we can compute is the limit of
#
# $$ \frac{h(\eta + \epsilon) - h(\eta - \epsilon)}{2 \epsilon}, $$
#
# here with $\epsilon = 10^{-6}$ on the logarithm of one hyperparameter, at a few points.

# %%
EPSILON = 1e-6


def difference(logs, name):
    above, below = ({**logs, name: logs[name] + e} for e in (EPSILON, -EPSILON))
    return (h(above) - h(below)) / (2 * EPSILON)


print(f"{'lr':>6}{'weight decay':>14}   {'derivative by':16}{'grad':>11}{'differences':>14}{'relative':>11}")
for lr, weight_decay in ((0.003, 0.1), (0.03, 0.5), (0.1, 2.0)):
    logs = point(lr, weight_decay)
    exact = grad(h)(logs)
    for name, derivative in exact.items():
        numeric = difference(logs, name)
        error = abs(numeric / derivative - 1).item()
        log = f"log {name}"
        print(f"{lr:6g}{weight_decay:14g}   {log:16}{derivative:>11.6f}{numeric:>14.6f}{error:>11.0e}")
        assert error < 1e-5

# %% [markdown]
# The same as a picture. `vmap` computes the curve, all learning rates in one run; the lines are its tangents, each from
# one gradient. On the right, where training is chaotic, the derivative is as exact and says little: it holds for a
# hair's breadth.

# %%
lrs = torch.logspace(-3, -0.5, 60, dtype=torch.float64)
weight_decay = torch.tensor(0.5, dtype=torch.float64).log()
curve = vmap(lambda log_lr: h({"lr": log_lr, "weight_decay": weight_decay}))(lrs.log())

figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
axes.semilogx(lrs, curve, color="0.6", linewidth=5, label=r"$h(\gamma)$, trained at each $\gamma$")
for i in (8, 22, 36, 44, 52):
    slope, value = grad_and_value(h)({"lr": lrs[i].log(), "weight_decay": weight_decay})
    near = torch.linspace(-0.5, 0.5, 2, dtype=torch.float64)
    label = "tangents from grad" if i == 8 else None
    axes.semilogx(lrs[i] * near.exp(), value + slope["lr"] * near, color="C1", linewidth=2, label=label)
    axes.semilogx(lrs[i], value, "o", color="C1")
axes.set(xlabel=r"learning rate $\gamma$", ylabel=f"validation loss after {STEPS} steps (nats)", ylim=(0.6, 2.2))
axes.set_title("The gradient through training is the slope of its result")
axes.legend()
plt.show()

# %% [markdown]
# ## Down the hypergradient
#
# The hyperparameters are a tree of tensors with a gradient, which is what an optimizer wants. Adam tunes AdamW: each
# step of the outer loop differentiates a whole training run.

# %%
OUTER = 30
outer = fx.adam(lr=fx.schedules.cosine_annealing(0.4, OUTER), betas=(0.7, 0.9))
logs = point(0.002, 3.0)
state = outer.init(logs)
path = []
for _ in range(OUTER):
    slope, value = grad_and_value(h)(logs)
    path.append((logs["lr"].exp().item(), logs["weight_decay"].exp().item(), value.item()))
    logs, state = fx.step(outer, slope, state, logs)

for i in (0, 10, 20, OUTER - 1):
    print("after {:2} outer steps: lr {:.4f}, weight decay {:.3f}, validation loss {:.4f}".format(i, *path[i]))
assert path[-1][2] < path[0][2]

# %% [markdown]
# Where did it go? A table of $h$, 20 by 20 runs under two `vmap`s, shows the valley; the descent did not need it.

# %%
grid_lr = torch.logspace(-3, -0.75, 20, dtype=torch.float64)
grid_decay = torch.logspace(-1.5, 1, 20, dtype=torch.float64)
over_lr = vmap(lambda lr, weight_decay: h({"lr": lr, "weight_decay": weight_decay}), in_dims=(0, None))
table = vmap(over_lr, in_dims=(None, 0))(grid_lr.log(), grid_decay.log())

rates, decays, values = zip(*path)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
levels = torch.linspace(table.min(), table.quantile(0.8), 16)
contours = left.contourf(grid_lr, grid_decay, table, levels=levels, cmap="viridis_r", extend="max")
figure.colorbar(contours, label="validation loss (nats)", format="%.2f")
left.plot(rates, decays, ".-", color="C1", markersize=5)
left.plot(rates[0], decays[0], "o", color="C1", markeredgecolor="white", markersize=9, label="begin")
left.plot(rates[-1], decays[-1], "*", color="C1", markeredgecolor="white", markersize=15, label="end")
left.set(xscale="log", yscale="log", xlabel=r"learning rate $\gamma$", ylabel=r"weight decay $\lambda$")
left.set_title("The path, on a table it never saw")
left.legend(loc="lower left")
right.plot(values, ".-", color="C1", label="descent")
right.axhline(table.min(), color="0.5", linestyle="--", label=f"best of {table.numel()} in the table")
right.set(xlabel="outer step", ylabel="validation loss (nats)", title="Two hyperparameters tuned by gradients")
right.legend()
plt.show()

# %% [markdown]
# ## MAML
#
# Model-agnostic meta-learning asks for parameters $\theta$ from which *one* step of gradient descent on a few points
# of a task leads to a good model of that task. Over tasks $\tau$ with a support set $S_\tau$ to adapt on and a query
# set $Q_\tau$ to be judged on,
#
# $$
# M(\theta, \alpha) = \mathbb{E}_\tau \, L_{Q_\tau}\big(\theta - \alpha \nabla L_{S_\tau}(\theta)\big).
# $$
#
# The tasks are sine waves of random amplitude and phase, ten points each. The inner step is `fx.sgd`; its learning rate
# $\alpha$ is learned along with $\theta$.

# %%
WIDTH = 40


def tasks(count, generator, points=10):
    """Support and query sets ``(x, y)`` of ``count`` sine waves, and their amplitudes and phases."""
    amplitude = 0.1 + 4.9 * torch.rand(count, 1, generator=generator)
    phase = math.pi * torch.rand(count, 1, generator=generator)
    x = 10 * torch.rand(count, 2 * points, generator=generator) - 5
    y = amplitude * torch.sin(x - phase)
    return (x[:, :points], y[:, :points]), (x[:, points:], y[:, points:]), (amplitude, phase)


regressor = torch.nn.Sequential(
    torch.nn.Linear(1, WIDTH),
    torch.nn.ReLU(),
    torch.nn.Linear(WIDTH, WIDTH),
    torch.nn.ReLU(),
    torch.nn.Linear(WIDTH, 1),
)
blank = {name: p.detach() for name, p in regressor.named_parameters()}


def predict(params, x):
    return functional_call(regressor, params, (x.unsqueeze(-1),)).squeeze(-1)


def error(params, points):
    x, y = points
    return (predict(params, x) - y).square().mean()


# %% [markdown]
# Adaptation is an ordinary loop of training. The loss of the meta-parameters maps it over the tasks, and everything
# else is `grad`.


# %%
def adapt(meta, support, steps=1):
    tx = fx.sgd(lr=meta["log_lr"].exp())
    params, state = meta["params"], tx.init(meta["params"])
    for _ in range(steps):
        params, state = fx.step(tx, grad(error)(params, support), state, params)
    return params


def meta_loss(meta, support, query):
    return vmap(lambda s, q: error(adapt(meta, s), q))(support, query).mean()


# %% [markdown]
# Is its gradient right? It has more than a thousand components, so we compare derivatives along random directions
# $v$: $\langle \nabla M, v \rangle$ against $\big(M(m + \epsilon v) - M(m - \epsilon v)\big) / 2 \epsilon$, in double
# precision. The last column is what *first-order* MAML computes, which takes the inner gradient for a constant: a
# popular approximation, and visibly another vector.

# %%
generator = torch.Generator().manual_seed(1)
double = {name: p.double() for name, p in blank.items()}
meta = {"params": double, "log_lr": torch.tensor(math.log(0.02), dtype=torch.float64)}
support, query, _ = tasks(25, generator)
support, query = ([a.double() for a in points] for points in (support, query))


def first_order(meta, support, query):
    def one(support, query):
        constant = {name: g.detach() for name, g in grad(error)(meta["params"], support).items()}
        tx = fx.sgd(lr=meta["log_lr"].exp())
        adapted, _ = fx.step(tx, constant, tx.init(meta["params"]), meta["params"])
        return error(adapted, query)

    return vmap(one)(support, query).mean()


def shifted(meta, v, epsilon):
    params = {name: p + epsilon * v["params"][name] for name, p in meta["params"].items()}
    return {"params": params, "log_lr": meta["log_lr"] + epsilon * v["log_lr"]}


def along(gradient, v):
    dots = sum((g * v["params"][name]).sum() for name, g in gradient["params"].items())
    return dots + gradient["log_lr"] * v["log_lr"]


exact, approximate = (grad(f)(meta, support, query) for f in (meta_loss, first_order))
print(f"{'along':12}{'grad':>12}{'differences':>14}{'relative':>11}{'first order':>14}")
for i in range(5):
    v = {
        "params": {name: torch.randn(p.shape, generator=generator).double() for name, p in double.items()},
        "log_lr": torch.randn((), generator=generator).double(),
    }
    values = [meta_loss(shifted(meta, v, e), support, query) for e in (1e-6, -1e-6)]
    numeric = (values[0] - values[1]) / 2e-6
    ours, theirs = along(exact, v), along(approximate, v)
    relative = abs(numeric / ours - 1).item()
    print(f"direction {i + 1} {ours:>12.6f}{numeric:>14.6f}{relative:>11.0e}{theirs:>14.6f}")
    assert relative < 1e-4

# %% [markdown]
# Now the training of the initial parameters, in single precision, 25 new tasks in each step.

# %%
META_STEPS = 800
generator = torch.Generator().manual_seed(2)
meta = {"params": blank, "log_lr": torch.tensor(math.log(0.02))}
outer = fx.adam(lr=fx.schedules.cosine_annealing(1e-2, META_STEPS))
state = outer.init(meta)
losses = []
for _ in range(META_STEPS):
    support, query, _ = tasks(25, generator)
    slope, value = grad_and_value(meta_loss)(meta, support, query)
    meta, state = fx.step(outer, slope, state, meta)
    losses.append(value)
losses = torch.stack(losses)
print(f"query error of the first 50 steps {losses[:50].mean():.2f}, of the last {losses[-50:].mean():.2f}")
print(f"inner learning rate, from 0.02: {meta['log_lr'].exp():.3f}")

# %% [markdown]
# Three waves that it has not seen. Before adaptation the network fits none of them: what it has learned is not an
# answer, but where to start from.

# %%
generator = torch.Generator().manual_seed(6)
support, _, (amplitude, phase) = tasks(3, generator)
grid = torch.linspace(-5, 5, 200)

figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
for i, axes in enumerate(panels):
    points = support[0][i], support[1][i]
    axes.plot(grid, amplitude[i] * torch.sin(grid - phase[i]), color="0.75", linewidth=5, label="the wave")
    axes.plot(grid, predict(meta["params"], grid), color="C0", linestyle=":", label="before")
    axes.plot(grid, predict(adapt(meta, points), grid), color="C1", label="after 1 step")
    axes.plot(grid, predict(adapt(meta, points, steps=10), grid), color="C2", linewidth=1.2, label="after 10 steps")
    axes.plot(*points, "o", color="black", markersize=4, label="its ten points")
    axes.set(xlabel="x (rad)", title=f"amplitude {amplitude[i].item():.1f}, phase {phase[i].item():.1f}")
panels[0].set_ylabel("y")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
figure.suptitle("Ten points and a few steps are enough to find a wave")
plt.show()

# %% [markdown]
# How much is that worth? The mean error over 500 new tasks by the number of adaptation steps, from the learned start
# and from the random one that it grew out of, with the same learning rate.

# %%
support, query, _ = tasks(500, torch.Generator().manual_seed(3))


def mean_error(params, steps):
    begin = {"params": params, "log_lr": meta["log_lr"]}
    return vmap(lambda s, q: error(adapt(begin, s, steps), q))(support, query).mean().item()


starts = {"random start": blank, "learned start": meta["params"]}
curves = {name: [mean_error(params, steps) for steps in range(11)] for name, params in starts.items()}
assert curves["learned start"][1] < curves["learned start"][0] / 2

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (name, values), color in zip(curves.items(), ("0.5", "C1")):
    axes.plot(values, "o-", color=color, label=name)
drop = curves["learned start"][0] / curves["learned start"][1]
axes.set(xlabel="adaptation steps", ylabel="mean squared error on new points", ylim=(0, None))
axes.set_title(f"From the learned start, one step divides the error by {drop:.1f}")
axes.legend()
plt.show()

# %% [markdown]
# ## What to read next
#
# - [One graph](04_one_graph.ipynb): the step, gradient and all, compiled.
# - `help(fx.inject_hyperparams)` and `help(fx.schedules)`: a whole schedule can be learned in the way of `h`, as its
#   parameters may be tensors too.
# - Finn, Abbeel and Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, 2017, where MAML and
#   its sine waves are from; Maclaurin, Duvenaud and Adams, *Gradient-based Hyperparameter Optimization through
#   Reversible Learning*, 2015, on doing without the memory of all steps.
