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
# # From `torch.optim` to pure functions
#
# A `torch.optim` optimizer is an object that holds references to the parameters and changes them when `step()` is
# called. In optimfx an optimizer is two functions without memory,
#
# $$
# s_0 = \mathrm{init}(\theta_0), \qquad (u_t, s_t) = \mathrm{update}(g_t, s_{t-1}, \theta_{t-1}), \qquad
# \theta_t = \theta_{t-1} + u_t,
# $$
#
# for parameters $\theta$, gradients $g$, updates $u$ and a state $s$ that you hold yourself. This notebook trains one
# network in both ways and compares the numbers, shows what the second way is good for, and then builds an optimizer
# that neither library has.

# %%
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.func import functional_call, grad_and_value
from torch.utils.benchmark import Timer

import optimfx as fx

pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
start = {name: p.detach().clone() for name, p in network.named_parameters()}
STEPS = 100

# %% [markdown]
# ## As a class
#
# The usual loop. The module that the optimizer comes from is an argument, because `fx.optim` has torch's classes under
# torch's names: changing the import is all there is to do. `foreach=False` asks both for their reference
# implementation, one parameter after the other; it is there that the two agree to the last bit.


# %%
def train_with_class(optim: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Parameters after training, and the loss at each step."""
    network.load_state_dict(start)
    optimizer = optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {name: p.detach().clone() for name, p in network.named_parameters()}, torch.stack(losses)


torch_params, torch_losses = train_with_class(torch.optim)
class_params, class_losses = train_with_class(fx.optim)

# %% [markdown]
# ## As functions
#
# Now the loss is a function of the parameters, `torch.func.grad_and_value` makes its gradient one, and `fx.step` is
# `update` and the addition in one. Each line takes values and returns new ones, and `start` is as it was afterwards.


# %%
def loss_of(params: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(functional_call(network, params, (x,)), y)


def train(
    tx: fx.GradientTransformation, params: dict[str, torch.Tensor], steps: int = STEPS
) -> tuple[dict[str, torch.Tensor], Any, torch.Tensor]:
    """Parameters and state after training, and the loss at each step."""
    state, losses = tx.init(params), []
    for _ in range(steps):
        grads, loss = grad_and_value(loss_of)(params)
        params, state = fx.step(tx, grads, state, params)
        losses.append(loss)
    return params, state, torch.stack(losses)


pure_params, pure_state, pure_losses = train(fx.adamw(lr=1e-2, weight_decay=0.1), start)

# %% [markdown]
# The first elements of a weight, and the largest difference anywhere in the network. It is zero, not merely small: the
# same operations were done in the same order.

# %%
runs = {"torch.optim.AdamW": torch_params, "fx.optim.AdamW": class_params, "fx.step": pure_params}
for name, params in runs.items():
    first = "  ".join(f"{v:.9f}" for v in params["2.weight"][0, :3].tolist())
    difference = max((params[key] - torch_params[key]).abs().max().item() for key in start)
    print(f"{name:18}  {first}   largest difference {difference:g}")
    assert difference == 0

# %%
figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
axes.plot(torch_losses, color="0.75", linewidth=9, label="torch.optim.AdamW")
axes.plot(class_losses, color="C0", linewidth=4, label="fx.optim.AdamW")
axes.plot(pure_losses, color="C1", linewidth=1.5, label="fx.step with fx.adamw")
axes.set(title="Three ways, one trajectory", xlabel="step", ylabel="training loss (nats)", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# The state is a tuple of trees like the parameters, with torch's names. There is nothing else to save, and nothing
# hidden:

# %%
print(type(pure_state).__name__, pure_state._fields)
print({name: tuple(m.shape) for name, m in pure_state.exp_avg.items()})

# %% [markdown]
# ## What that is good for
#
# Because nothing is changed behind your back, *trying something* costs nothing: from one moment of the training, go on
# with five learning rates, and compare. With a class each branch would need a deep copy of model and optimizer; here
# the common past is two variables, used five times.

# %%
middle, state, _ = train(fx.adamw(lr=1e-2, weight_decay=0.1), start, steps=20)
grads, before = grad_and_value(loss_of)(middle)
for lr in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
    after, _ = fx.step(fx.adamw(lr=lr, weight_decay=0.1), grads, state, middle)
    print(f"lr = {lr:<5g}  the loss goes from {before:.4f} to {loss_of(after):.4f}")

# %% [markdown]
# ## A rule of one's own
#
# A rule says what happens to one parameter. Here is one that lies between gradient descent and sign descent: average
# the gradients, and squash each element of the average to a number between -1 and 1,
#
# $$
# m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad u_t = \frac{m_t}{|m_t| + \delta}.
# $$
#
# Where $|m| \ll \delta$ the update is proportional to $m$; where $|m| \gg \delta$ it is its sign. `scalars` holds what
# does not depend on the element, `init` makes the memory of a parameter, and `leaf` is the mathematics, written with
# operators and the words of `fx.ops`. It adds to `base`, which is the parameter when this is the last link, and nothing
# when it is an update for the next one.


# %%
class SoftSignState(NamedTuple):
    step: Any
    exp_avg: Any


class Scalars(NamedTuple):
    weight: Any
    delta: Any


def leaf(base, param, grad, exp_avg, s):
    exp_avg = fx.ops.lerp(exp_avg, grad, s.weight)
    return fx.ops.addcdiv(base, exp_avg, fx.ops.abs(exp_avg) + s.delta), exp_avg


soft_sign = fx.Rule(
    leaf,
    scalars=lambda step, beta, delta: Scalars(1 - beta, delta),
    init=lambda param: (fx.ops.zeros_like(param),),
    state=SoftSignState,
)

# %% [markdown]
# `fx.transformation` turns the rule into a transformation of trees, and `fx.chain` puts it where it belongs: clip the
# gradients, take the direction, add the decay, and go downhill.

# %%
own = fx.chain(
    fx.clip_by_global_norm(1.0),
    fx.transformation("soft_sign", soft_sign, beta=0.9, delta=1e-3),
    fx.add_decayed_weights(0.1),
    fx.scale_by_lr(1e-2),
)
own_params, own_state, own_losses = train(own, start)
print(f"loss after {STEPS} steps: {own_losses[-1]:.4f}, with AdamW {pure_losses[-1]:.4f}")

# %% [markdown]
# Is it what was meant? The same in plain torch, by hand:


# %%
def by_hand(grads: list, exp_avgs: list, params: list) -> None:
    """One step in place, operation by operation."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    factor = (1.0 / norm).clamp(max=1.0)
    for grad, exp_avg, param in zip(grads, exp_avgs, params):
        exp_avg.lerp_(grad * factor, 0.1)
        update = exp_avg / (exp_avg.abs() + 1e-3) + 0.1 * param
        param.sub_(update, alpha=1e-2)


params = {name: p.clone() for name, p in start.items()}
exp_avgs = {name: torch.zeros_like(p) for name, p in start.items()}
for _ in range(STEPS):
    grads, _ = grad_and_value(loss_of)(params)
    by_hand(list(grads.values()), list(exp_avgs.values()), list(params.values()))

difference = max((params[name] - own_params[name]).abs().max().item() for name in start)
print(f"largest difference of a weight, of size {own_params['0.weight'].abs().max():.1f}: {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# ## One pass
#
# Written by hand, each operation above reads and writes whole tensors. optimfx knows that these links treat each
# element by itself, so it may run all of them on one stretch of memory before going on to the next. `fx.explain` shows
# how a transformation will run: the links that run together stand in one row.

# %%
weights = {name: torch.randn(1024, 1024) for name in ("a", "b", "c", "d")}
fx.explain(own, weights)

# %% [markdown]
# The norm needs a pass of its own over the gradients; everything after it is the second one. Another executor may be
# asked for. `compiled` is what `fused=True` chooses in the classes: Inductor makes a single loop of the whole chain.

# %%
with fx.execution.use("compiled"):
    print(fx.explain(own, weights))

# %% [markdown]
# What that is worth depends on the machine. Here is this one: a step of the chain for the four matrices above, by hand
# and by three executors. `eager` is the reference, out of place and one operation at a time; it is what differentiates
# and maps, not what is fast. `blocked` is the default on a CPU. `compiled` is timed after the call that compiles.

# %%
grads = {name: torch.randn_like(p) for name, p in weights.items()}
state = own.init(weights)
times = {}

exp_avgs = [torch.zeros_like(p) for p in weights.values()]
timer = Timer("f(*a)", globals={"f": by_hand, "a": (list(grads.values()), exp_avgs, list(weights.values()))})
times["by hand, in torch"] = timer.timeit(10).mean

for executor in ("eager", "blocked", "compiled"):
    with fx.execution.use(executor):
        weights, state = fx.step(own, grads, state, weights, inplace=True)
        gradients = [{name: g.clone() for name, g in grads.items()} for _ in range(10)]
        timer = Timer(
            "for g in gradients: f(own, g, state, weights, inplace=True)",
            globals={"f": fx.step, "own": own, "gradients": gradients, "state": state, "weights": weights},
        )
        times[f'execution.use("{executor}")'] = timer.timeit(1).mean / 10

# %%
fastest = min(times, key=times.__getitem__)
gain = times["by hand, in torch"] / times[fastest]
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
bars = axes.barh(list(times), [1e3 * t for t in times.values()], color=["0.6", "C0", "C0", "C1"])
axes.bar_label(bars, fmt="%.1f", padding=4)
axes.invert_yaxis()
axes.margins(x=0.12)
axes.set(title=f"As one pass, the chain runs {gain:.1f} times as fast as by hand", xlabel="time of a step (ms)")
plt.show()

# %% [markdown]
# ## What to read next
#
# - [A thousand learning rates at once](02_a_thousand_learning_rates_at_once.ipynb): what else a function can do that an
#   object cannot.
# - *Your own rule* in the [README](../README.md), and `help(fx.Rule)`, for scalars that go from step to step and rules
#   that need a whole tensor.
# - `help(fx.optim.TransformOptimizer)`: the chain above as a `torch.optim.Optimizer`, with `fused=True`, groups,
#   schedulers and checkpoints.
# - [examples/migration.py](../examples/migration.py): a training script in which one import changes.
