"""A transformer whose whole training step is one graph: gradient, clipping, schedule, update; resumed, and exported.

``torch.compile(fullgraph=True)`` compiles the step once: the rate falls and the counts rise without compiling again. In
the middle a checkpoint is written, from which a new process would go on as this one does here: the weights must be the
same, to the last bit. In the end the step of the optimizer is exported to a file, for a program without this library.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

import optimfx as fx

STEPS, BATCH, LENGTH, SYMBOLS, WIDTH = 240, 64, 8, 12, 32
TX = fx.chain(
    fx.clip_by_global_norm(1.0),
    fx.adamw(lr=fx.schedules.warmup_cosine(1e-2, warmup_steps=10, total_steps=STEPS), weight_decay=0.01),
)


class Transformer(nn.Module):
    """Two layers of attention over sequences of symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x) + self.place))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences of symbols, and the same turned round, which is to be learned."""
    x = torch.randint(SYMBOLS, (BATCH, LENGTH), generator=generator)
    return x, x.flip(1)


def main(backend: str) -> None:
    torch.set_num_threads(1)  # several add up the gradient of an embedding in any order
    torch.manual_seed(0)
    model = Transformer()
    params = {name: p.detach() for name, p in model.named_parameters()}
    state = TX.init(params)

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, params, (x,)).flatten(0, 1), y.flatten())

    def step(params: Any, state: Any, x: Tensor, y: Tensor) -> tuple[Any, Any, Tensor]:
        grads, value = grad_and_value(loss)(params, x, y)
        params, state = fx.step(TX, grads, state, params)
        return params, state, value

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    torch._dynamo.utils.counters.clear()
    generator = torch.Generator().manual_seed(0)
    batches = [batch(generator) for _ in range(STEPS)]
    console, begin = Console(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        for i, (x, y) in enumerate(batches[: STEPS // 2]):
            params, state, value = compiled(params, state, x, y)
            if i == 0:
                console.print(f"compiled in {time.perf_counter() - begin:.0f} s, with a loss of {value:.2f}")
        torch.save({"params": params, "state": state}, path)
        saved = torch.load(path, weights_only=True)  # the classes of states are registered when the library is imported
    runs = []
    for p, s in ((params, state), (saved["params"], saved["state"])):
        for x, y in batches[STEPS // 2 :]:
            p, s, value = compiled(p, s, x, y)
        runs.append(p)
    assert all(torch.equal(p, runs[1][name]) for name, p in runs[0].items()), "a resumed run should be the same"
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1, f"the step was compiled {graphs} times"
    assert value < 0.5
    console.print(f"{STEPS} steps in one graph; a loss of {value:.2f}; resumed in the middle, the same weights")

    class Update(nn.Module):
        def forward(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
            return fx.step(TX, grads, state, params)

    grads, _ = grad_and_value(loss)(p, *batches[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update.pt2"
        torch.export.save(torch.export.export(Update(), (grads, s, p)), path)
        size = path.stat().st_size
        exported, _ = torch.export.load(path).module()(grads, s, p)
    wanted, _ = fx.step(TX, grads, s, p)
    for name, x in wanted.items():
        torch.testing.assert_close(exported[name], x, rtol=1e-6, atol=1e-6)
    console.print(f"the optimizer's step, exported: {size / 1e6:.1f} MB, and its updates are the same")


if __name__ == "__main__":
    # Without a C++ compiler the graph is captured all the same, and run operation by operation.
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "aot_eager"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default=backend, help="of torch.compile")
    main(parser.parse_args().backend)
