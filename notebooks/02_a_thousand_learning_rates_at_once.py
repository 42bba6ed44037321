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
# # A thousand learning rates at once
#
# A sweep over hyperparameters trains the same network again and again with other numbers. For a small network most of
# that time is not arithmetic but the overhead of launching it. In optimfx a hyperparameter may be a tensor, an argument
# of the computation like any other, so that `torch.vmap` can map the training step over it: here
#
# $$ 32 \text{ learning rates} \times 32 \text{ weight decays} = 1024 \text{ networks}, $$
#
# each with its own optimizer state, and *one call per step* for all of them.

# %%
import time

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.func import functional_call, grad

import optimfx as fx

torch.set_num_threads(1)
SIDE = 32
STEPS = 200
BATCH = 32

# %% [markdown]
# ## The task
#
# scikit-learn's handwritten digits, made hard enough for the choice to matter: 256 images to train on, and 40 % of
# their labels replaced by random ones. A network that learns them by heart generalises badly. 1000 images are for
# choosing the hyperparameters, the rest for the winner's test.

# %%
generator = torch.Generator().manual_seed(0)
pixels, labels = load_digits(return_X_y=True)
order = torch.randperm(len(pixels), generator=generator)
x = torch.tensor(pixels / 16, dtype=torch.float32)[order]
y = torch.tensor(labels)[order]
(x_train, x_val, x_test), (y_train, y_val, y_test) = (a.tensor_split([256, 1256]) for a in (x, y))

wrong = torch.rand(len(y_train), generator=generator) < 0.4
y_train = torch.where(wrong, torch.randint(10, y_train.shape, generator=generator), y_train)

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
start = {name: p.detach() for name, p in network.named_parameters()}

# %% [markdown]
# ## One model
#
# The training step of *one* network, a pure function of its hyperparameters, state and parameters. The learning rate
# falls along a cosine from `lr` to zero; the schedule takes the tensor as it would take a number.


# %%
def loss(params, x, y):
    return torch.nn.functional.cross_entropy(functional_call(network, params, (x,)), y)


def step(lr, weight_decay, state, params, x, y):
    tx = fx.adamw(lr=fx.schedules.cosine_annealing(lr, STEPS), weight_decay=weight_decay)
    return fx.step(tx, grad(loss)(params, x, y), state, params)


def accuracy(params, x, y):
    return (functional_call(network, params, (x,)).argmax(-1) == y).float().mean()


# %% [markdown]
# ## 1024 models
#
# `in_dims` says what has one value per model, `0`, and what all share, `None`. Nothing in the step had to be written
# for many models.

# %%
lrs = torch.logspace(-3, -0.75, SIDE)
decays = torch.logspace(-1.5, 1, SIDE)
lr, decay = (axis.flatten() for axis in torch.meshgrid(lrs, decays, indexing="ij"))

models = {name: p.expand(len(lr), *p.shape) for name, p in start.items()}
states = torch.vmap(fx.adamw().init)(models)
step_all = torch.vmap(step, in_dims=(0, 0, 0, 0, None, None))

rows = torch.randint(len(x_train), (STEPS, BATCH), generator=generator)
batches = [(x_train[i], y_train[i]) for i in rows]

begin = time.perf_counter()
for batch in batches:
    models, states = step_all(lr, decay, states, models, *batch)
together = time.perf_counter() - begin
print(f"{len(lr)} models, {STEPS} steps each: {together:.1f} s")

# %% [markdown]
# Evaluation is mapped in the same way.

# %%
scores = torch.vmap(accuracy, in_dims=(0, None, None))(models, x_val, y_val)
best = int(scores.argmax())
print(f"best of the validation: lr = {lr[best]:.2g}, weight decay = {decay[best]:.2g}, accuracy {scores[best]:.1%}")

# %%
ratio = (lrs[1] / lrs[0]).sqrt(), (decays[1] / decays[0]).sqrt()
edges = [torch.cat([axis / r, axis[-1:] * r]) for axis, r in zip((lrs, decays), ratio)]
table = 100 * scores.reshape(SIDE, SIDE).T

figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
image = axes.pcolormesh(*edges, table, cmap="viridis")
axes.plot(lr[best], decay[best], "*", color="C3", markersize=15, markeredgecolor="white")
axes.annotate(f"best: {scores[best]:.1%}", (lr[best], decay[best]), xytext=(10, 5), textcoords="offset points")
figure.colorbar(image, label="validation accuracy (%)")
axes.set(xscale="log", yscale="log", xlabel=r"learning rate $\gamma$", ylabel=r"weight decay $\lambda$")
axes.set_title("Weight decay widens the range of good learning rates")
plt.show()

# %% [markdown]
# Read it from left to right. With a small learning rate training ends before the false labels are learned, and decay
# does little. With a larger one there is time to learn them, and it takes decay to prevent that. Too much of the
# product $\gamma\lambda$, by which AdamW shrinks the weights in each step, leaves nothing of the network: the edge at
# the top, which falls to the right. And too large a learning rate fails with any decay.
#
# The whole table is there, so a slice is an index. At which decay does the choice of the learning rate matter least?

# %%
near = table > table.max() - 5
steady = int(near.sum(1).argmax())

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for i, color in ((0, "C0"), (steady, "C1")):
    label = rf"$\lambda$ = {decays[i]:.2g}: {int(near[i].sum())} learning rates within 5 points of the best"
    axes.semilogx(lrs, table[i], color=color, label=label)
axes.axhline(table.max() - 5, color="0.7", linestyle="--", linewidth=1)
axes.set(xlabel=r"learning rate $\gamma$", ylabel="validation accuracy (%)", ylim=(0, 100))
reach = lrs[near[steady]].max() / lrs[near[0]].max()
axes.set_title(f"The right decay forgives a learning rate {reach:.1f} times as large")
axes.legend(loc="lower left")
plt.show()

# %% [markdown]
# The parameters and states of all models are there too. The winner's are an index away, for the test, or to train on
# from there: which is how a sweep in rounds, or population-based training, would go on.

# %%
winner = {name: p[best] for name, p in models.items()}
print(f"accuracy of the winner on the test images: {accuracy(winner, x_test, y_test):.1%}")

# %% [markdown]
# ## Against a loop
#
# The same `step` without `vmap`, for four of the models, one after the other. Both have one thread: in a single small
# model there is no work for more. They must come to the same place: the same mathematics, summed in another order.
# Differences grow along a trajectory, and do so faster the larger its steps; the four are from the learning rates where
# training is stable.

# %%
members = [SIDE * i + j for i, j in ((2, 4), (6, 16), (10, 12), (14, 20))]
begin = time.perf_counter()
looped = []
for i in members:
    params, state = start, fx.adamw().init(start)
    for batch in batches:
        params, state = step(lr[i], decay[i], state, params, *batch)
    looped.append(params)
alone = (time.perf_counter() - begin) / len(members)

for i, params in zip(members, looped):
    difference = max((models[name][i] - p).abs().max().item() for name, p in params.items())
    size = max(p.abs().max().item() for p in params.values())
    print(f"lr {lr[i]:.2g}, decay {decay[i]:.2g}: largest difference {difference:.1e}, of weights up to {size:.1f}")
    assert difference < 1e-3 * size

# %%
times = {"loop": alone, f"vmap over {len(lr)}": together / len(lr)}
figure, axes = plt.subplots(figsize=(7, 2), layout="constrained")
bars = axes.barh(list(times), [1e3 * t for t in times.values()], color=["0.6", "C1"])
axes.bar_label(bars, fmt="%.3g", padding=4)
axes.invert_yaxis()
axes.margins(x=0.12)
axes.set(xlabel=f"time to train one model, {STEPS} steps (ms)")
axes.set_title(f"A thousand at once train {alone * len(lr) / together:.0f} times as fast as one by one")
plt.show()
print(f"all {len(lr)} in a loop would take {alone * len(lr):.0f} s; at once they took {together:.1f} s")

# %% [markdown]
# ## What to read next
#
# - [Gradients through training](03_gradients_through_training.ipynb): instead of a table of hyperparameters, the
#   derivative with respect to them.
# - [One graph](04_one_graph.ipynb): `torch.compile` takes a step apart and puts it together as a few kernels;
#   `torch.compile(torch.vmap(step))` does so for all models.
# - `help(fx.inject_hyperparams)`: the same sweep with the hyperparameters in the state.
# - [examples/digits.py](../examples/digits.py): a loop, a population and a compiled step as a program.
