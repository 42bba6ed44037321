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
# # One graph
#
# A step of training is a forward pass, a backward pass, a clipping of the gradients, a schedule and an optimizer. Run
# one after the other, each is a row of small operations, and for a small network most of the time goes into launching
# them. As a pure function,
#
# $$ (\theta_t, s_t, \ell_t) = f(\gamma, s_{t-1}, \theta_{t-1}, x_t, y_t), $$
#
# the step has nothing in it that a compiler must not see: `torch.compile(fullgraph=True)` takes all of it as one
# graph. This notebook counts what comes out, checks that no number makes it compile again, and measures it beside
# `torch.optim` and Optax. It needs a C++ compiler, and `jax` and `optax` for the comparison.

# %%
import re
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
import torch
from sklearn.datasets import load_digits
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code
from torch.func import grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx

import optimfx as fx

LR = 1e-3
STEPS = 200
BATCH = 128

# %% [markdown]
# ## The step
#
# A network with one hidden layer for scikit-learn's digits. The learning rate is an argument, a 0-d tensor, at which
# the cosine begins.

# %%
torch.manual_seed(0)
start = {
    "w0": torch.randn(64, 128) / 8,
    "b0": torch.zeros(128),
    "w1": torch.randn(128, 10) / 11,
    "b1": torch.zeros(10),
}
pixels, labels = load_digits(return_X_y=True)
rows = torch.randint(len(pixels), (STEPS, BATCH))
batches = [(torch.tensor(pixels[i] / 16, dtype=torch.float32), torch.tensor(labels[i])) for i in rows]


def loss(params, x, y):
    hidden = torch.relu(x @ params["w0"] + params["b0"])
    return torch.nn.functional.cross_entropy(hidden @ params["w1"] + params["b1"], y)


def optimizer(lr):
    return fx.chain(
        fx.clip_by_global_norm(1.0),
        fx.adamw(lr=fx.schedules.cosine_annealing(lr, STEPS), weight_decay=1e-2),
    )


def step(lr, state, params, x, y):
    grads, value = grad_and_value(loss)(params, x, y)
    params, state = fx.step(optimizer(lr), grads, state, params)
    return params, state, value


# %% [markdown]
# ## Operation by operation
#
# Called as it is, the step launches every one of these, whether it has a million elements or one:

# %%
lr = torch.tensor(LR)
first = optimizer(lr).init(start)
traced = make_fx(step)(lr, first, start, *batches[0])
operations = [node for node in traced.graph.nodes if node.op == "call_function"]
print(f"{len(operations)} operations in a step")

# %% [markdown]
# Already here, optimfx does not run the optimizer in that way where it has a better one. For a step in place, outside
# of `torch.compile`, `fx.explain` says which executor gets the parameters:

# %%
fx.explain(optimizer(LR), start)

# %% [markdown]
# ## Compiled
#
# Within `torch.compile` the compiler is the executor: optimfx hands it the mathematics, and it decides what to fuse,
# across the border between gradient and optimizer too. `fullgraph=True` makes anything it cannot take an error.

# %%
counters.clear()
compiled = torch.compile(step, fullgraph=True)
(params, state, value), (code,) = run_and_get_code(compiled, lr, first, start, *batches[0])
print(f"graphs: {counters['stats']['unique_graphs']}")
assert counters["stats"]["unique_graphs"] == 1

# %% [markdown]
# What was made of the operations? The matrix products are calls to a library. Everything between them was fused into a
# few kernels, whose names say what is in them.

# %%
calls = re.findall(r"^ +(cpp_fused_\w+|extern_kernels\.\w+)\(", code.split("def call(")[1], flags=re.MULTILINE)
kernels = [name for name in calls if name.startswith("cpp_fused")]
print(f"{len(operations)} operations became {len(kernels)} kernels and {len(calls) - len(kernels)} matrix products:\n")
print(*calls, sep="\n")
assert len(kernels) < len(operations) / 4

# %% [markdown]
# The last one is the whole optimizer: the `cos` of the schedule, the clipping, the `lerp` and `addcmul` of Adam's
# moments, the decay and the step, for all four parameters. The norms that clipping needs are in the kernels that finish
# the gradients.
#
# It is the same step:

# %%
expected, expected_state, _ = step(lr, first, start, *batches[0])
difference = max((params[name] - p).abs().max().item() for name, p in expected.items())
print(f"largest difference of a parameter after a step of {LR:g}: {difference:.1e}")
assert difference < 1e-6

# %% [markdown]
# ## No number compiles again
#
# A step count that grows, a learning rate from the schedule, another learning rate altogether: all are tensors, inputs
# of the graph. `set_stance` turns a recompilation into an error.

# %%
with torch.compiler.set_stance("fail_on_recompile"):
    for i, batch in enumerate(batches):
        params, state, value = compiled(torch.tensor(LR * (1 + i)), state, params, *batch)
print(f"after {len(batches)} learning rates, graphs: {counters['stats']['unique_graphs']}")
assert counters["stats"]["unique_graphs"] == 1

# %% [markdown]
# That check can fail. Another size of the batch is another graph:

# %%
x, y = batches[0]
try:
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(lr, state, params, x[:64], y[:64])
except RuntimeError as error:
    print(str(error).split(". ")[0])
else:
    raise AssertionError("a batch of another size was expected to compile")

# %% [markdown]
# ## Steps per second
#
# The same training, from the same weights on the same batches, in five ways. torch gets one thread, as in tensors of
# this size there is little to share out. First the usual loop with `torch.optim`: as it is, and with what torch offers
# to speed it up, a compiled network and a fused optimizer.


# %%
torch.set_num_threads(1)


def torch_loop(compiled):
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    values = {"0.weight": start["w0"].T, "0.bias": start["b0"], "2.weight": start["w1"].T, "2.bias": start["b1"]}
    forward = torch.compile(network, fullgraph=True) if compiled else network

    def run():
        network.load_state_dict(values)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=1e-2, fused=compiled)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for x, y in batches:
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(forward(x), y)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        return value.item()

    return run


# %% [markdown]
# Then the pure function, as it is and compiled.


# %%
def ours(step):
    def run():
        params, state = start, first
        for x, y in batches:
            params, state, value = step(lr, state, params, x, y)
        return value.item()

    return run


# %% [markdown]
# And Optax under `jax.jit`. Its words are much the same.


# %%
def optax_jit():
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_decay_schedule(LR, STEPS), weight_decay=1e-2),
    )
    arrays = {name: jnp.asarray(p.numpy()) for name, p in start.items()}
    data = [(jnp.asarray(x.numpy()), jnp.asarray(y.numpy())) for x, y in batches]

    def loss(params, x, y):
        hidden = jax.nn.relu(x @ params["w0"] + params["b0"])
        logits = hidden @ params["w1"] + params["b1"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    def run():
        params, state = arrays, tx.init(arrays)
        for x, y in data:
            params, state, value = step(params, state, x, y)
        return float(value)

    return run


# %% [markdown]
# The first run of each compiles what there is to compile; all must end at the same loss. Then they take turns, and the
# best of several rounds counts.

# %%
methods = {
    "torch.optim": torch_loop(compiled=False),
    "torch.optim fused,\nnetwork compiled": torch_loop(compiled=True),
    "optimfx": ours(step),
    "optimfx, one graph": ours(compiled),
    "Optax, jit": optax_jit(),
}
losses = {name: run() for name, run in methods.items()}
for name, value in losses.items():
    print(f"{name.replace(chr(10), ' '):36} ends at a loss of {value:.6f}")
    assert abs(value / losses["torch.optim"] - 1) < 1e-3

seconds = dict.fromkeys(methods, float("inf"))
for _ in range(4):
    for name, run in methods.items():
        begin = time.perf_counter()
        run()
        seconds[name] = min(seconds[name], time.perf_counter() - begin)
speeds = {name: STEPS / best for name, best in seconds.items()}

# %%
ours_, loop, jit = speeds["optimfx, one graph"], speeds["torch.optim"], speeds["Optax, jit"]
figure, axes = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
bars = axes.barh(list(speeds), list(speeds.values()), color=["0.6", "0.6", "C0", "C1", "0.6"])
axes.bar_label(bars, fmt="{:,.0f}", padding=4)
axes.invert_yaxis()
axes.margins(x=0.12)
axes.set(xlabel=f"training steps per second, batches of {BATCH}")
axes.set_title(f"One graph: {ours_ / loop:.1f} times the speed of a torch.optim loop, {ours_ / jit:.1f} that of Optax")
plt.show()

# %% [markdown]
# The smaller the network, the more there is to gain; where matrix products take most of the time, all of these come
# closer together. At this size a good part of the compiled step is the time that torch takes to enter a graph, as it
# checks all inputs at each call. Compiling has its price too, paid once: it took longer than all of the steps above.
#
# ## What to read next
#
# - *Speed* in the [README](../README.md), and `make bench`, for larger networks, many models at once, and the classes.
# - [What the compiler makes of the kernels](../docs/kernels.md) on a GPU.
# - [Gradients through training](03_gradients_through_training.ipynb) and
#   [A thousand learning rates at once](02_a_thousand_learning_rates_at_once.ipynb), whose steps compile in the same
#   way.
