"""Models to step, as lists of parameter shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

Shape = tuple[int, ...]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resnet50() -> Iterator[Shape]:
    """ResNet-50 with 1000 classes; a convolution is (out, in, height, width), a batch norm two vectors."""

    def convolution(out: int, into: int, kernel: int) -> Iterator[Shape]:
        yield from ((out, into, kernel, kernel), (out,), (out,))

    channels = 64
    yield from convolution(channels, 3, 7)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            yield from convolution(width, channels, 1)
            yield from convolution(width, width, 3)
            yield from convolution(4 * width, width, 1)
            if block == 0:
                yield from convolution(4 * width, channels, 1)
            channels = 4 * width
    yield from ((1000, channels), (1000,))


def gpt2_small(width: int = 768, layers: int = 12, vocabulary: int = 50257, context: int = 1024) -> Iterator[Shape]:
    """GPT-2 small; the output projection is the token embedding, as in the original."""
    norm = (width,), (width,)
    yield from ((vocabulary, width), (context, width))
    for _ in range(layers):
        yield from norm
        yield from ((width, 3 * width), (3 * width,), (width, width), (width,))
        yield from norm
        yield from ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from norm


def llama1b(width: int = 2048, layers: int = 16, vocabulary: int = 128256, hidden: int = 8192) -> Iterator[Shape]:
    """Llama-3.2-1B, whose output projection is the token embedding; keys and values have a quarter of the heads."""
    yield (vocabulary, width)
    for _ in range(layers):
        yield from ((width, width), (width // 4, width), (width // 4, width), (width, width))
        yield from ((hidden, width), (hidden, width), (width, hidden))
        yield from ((width,), (width,))
    yield (width,)


WORKLOADS: dict[str, list[Shape]] = {
    "one25M": [(25_000_000,)],
    "resnet50": list(resnet50()),
    "tiny1000": [(64,)] * 1000,
    "gpt2_small": list(gpt2_small()),
}


ON_A_GPU: dict[str, list[Shape]] = {
    "one1GiB": [(1 << 28,)],
    "resnet50": WORKLOADS["resnet50"],
    "llama1b": list(llama1b()),
    "tiny2000": [(64,)] * 2000,
}


def elements(shapes: list[Shape]) -> int:
    return sum(map(math.prod, shapes))
