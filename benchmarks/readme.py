"""Writes a marked block of README.md: that of this machine's results, or that of all GPUs'.

``make bench`` and ``make gpu`` run it last.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import overhead
from algorithms import PURE
from cells import Cell, summary
from gpu_readme import gpus
from host_path import OURS
from results import FOLDER, ROOT, load, path_of

REFERENCE = "Optax, jit"
WIDTH = 120


def classes(content: dict[str, Any], picture: Path) -> Iterator[str]:
    """A row for each workload and dtype: elementwise algorithms, geometric mean, and of our classes the worst."""
    cells: list[Cell] = [cell for cell in content["cells"] if cell["elementwise"]]
    if not cells:
        return
    yield "| workload | dtype | default flags | worst | `fused=True` | worst | `fx.step(inplace=True)` | `fx.step` |"
    yield "|---|---|---|---|---|---|---|---|"
    for workload, dtype in dict.fromkeys((cell["workload"], cell["dtype"]) for cell in cells):
        part = [cell for cell in cells if (cell["workload"], cell["dtype"]) == (workload, dtype)]
        yield f"| `{workload}` | {dtype} | {_figures(part)} |"
    yield f"| all | | {_figures(cells)} |"
    yield ""
    sentence = (
        "Time of a step over that of the fastest of torch's for-loop, foreach and fused, as geometric mean over "
        f"{len({cell['algorithm'] for cell in cells})} elementwise algorithms; below 1 is faster. First that of an "
        "`fx.optim` class, with the worst of the algorithms, then that of the function, which allocates new parameters "
        "and state at each step unless it steps in place."
    )
    if picture.is_relative_to(ROOT):
        sentence += f" Each algorithm: [chart]({picture.relative_to(ROOT).as_posix()})."
    yield textwrap.fill(sentence, WIDTH)
    yield ""


def first_steps(content: dict[str, Any]) -> Iterator[str]:
    """The longest, with and without a kernel in Inductor's cache."""
    cold, warm = [max(cell[cache] for cell in content["cells"]) for cache in ("cold", "warm")]
    sentence = (
        f"The first step with `fused=True` compiles a kernel, in {cold:.1f} s at the most; in {warm:.1f} s if it is in "
        "Inductor's cache. No later one does."
    )
    yield textwrap.fill(sentence, WIDTH)
    yield ""


def matrices(content: dict[str, Any]) -> Iterator[str]:
    """Muon's class over torch's, a row for each set of matrices."""
    yield "| a step of `Muon`, time over that of torch's | class | leaf by leaf | in stacks |"
    yield "|---|---|---|---|"
    for cell in content["cells"]:
        times = cell["milliseconds"]
        ratios = [f"{times[name] / times['torch']:.2f}" for name in ("class", "leaf by leaf", "in stacks")]
        yield f"| {cell['workload']} | {' | '.join(ratios)} |"
    yield ""


def functional(content: dict[str, Any]) -> Iterator[str]:
    """A row for each method, a column for each number of models."""
    cells = content["cells"]
    heads = [f"{cell['models']} models" if cell["models"] > 1 else "one model" for cell in cells]
    yield f"| a training step, time over that of {REFERENCE} | {' | '.join(heads)} |"
    yield "|---|" + "---|" * len(cells)
    for name in dict.fromkeys(name for cell in cells for name in cell["milliseconds"] if name != REFERENCE):
        times = [cell["milliseconds"] for cell in cells]
        yield f"| {name} | " + " | ".join(f"{t[name] / t[REFERENCE]:.2f}" if name in t else "" for t in times) + " |"
    yield ""
    sentence = (
        f"A {content['network']} network on batches of {content['batch']} digits with AdamW, gradient included; many "
        "models are one call, under `vmap`."
    )
    yield textwrap.fill(sentence, WIDTH)
    yield ""


def overheads(content: dict[str, Any]) -> Iterator[str]:
    """A row for each number of tensors: geometric mean and worst over the algorithms, of each method."""
    methods = {
        "class": "`fx.optim` class",
        "pure in place": "`fx.step(inplace=True)`",
        "pure out of place": "`fx.step`",
    }
    yield f"| small models, one thread | {' | '.join(f'{text} | worst' for text in methods.values())} |"
    yield "|---|" + "---|" * 2 * len(methods)
    rows: dict[str, list[Cell]] = {}
    for cell in content["cells"]:
        tensors, groups = cell["tensors"], cell["groups"]
        name = f"{groups} groups of one tensor" if groups > 1 else f"{tensors} tensor{'s' * (tensors > 1)}"
        rows.setdefault(overhead.CLIPPED if cell["algorithm"] == overhead.CLIPPED else name, []).append(cell)
    for name, cells in rows.items():
        found = [[x for cell in cells if (x := overhead.ratio(cell, method)) is not None] for method in methods]
        figures = [f"{overhead.mean(ratios):.2f} | {max(ratios):.2f}" if ratios else " | " for ratios in found]
        yield f"| {name} | {' | '.join(figures)} |"
    yield ""
    algorithms = {cell["algorithm"] for cell in content["cells"]} - {overhead.CLIPPED}
    sentence = (
        "Time of a step over that of the fastest of torch's for-loop, foreach and fused, as geometric mean and worst "
        f"over {len(algorithms)} algorithms; {overhead.CLIPPED} is a chain in a `TransformOptimizer`, over all numbers "
        "of tensors."
    )
    yield textwrap.fill(sentence, WIDTH)
    yield ""


def host_path(content: dict[str, Any]) -> Iterator[str]:
    """A row for each number of tensors: geometric mean over the algorithms, of each method."""
    cells = content["cells"]
    yield "| the host's part of a GPU step, launches left out | `fx.optim` class | `fx.step(inplace=True)` |"
    yield "|---|---|---|"
    for count in dict.fromkeys(cell["tensors"] for cell in cells):
        times = [cell["microseconds"] for cell in cells if cell["tensors"] == count]
        figures = [f"{overhead.mean([t[name] / t['torch fused'] for t in times]):.2f}" for name in OURS]
        yield f"| {count} tensor{'s' * (count > 1)} | {' | '.join(figures)} |"
    yield ""
    sentence = (
        "Over the time of torch's class with `fused=True`, whose kernel is left out too, as geometric mean over "
        f"{len({cell['algorithm'] for cell in cells})} algorithms."
    )
    yield textwrap.fill(sentence, WIDTH)
    yield ""


def compile_time(content: dict[str, Any]) -> Iterator[str]:
    """Write the sentence about compile time."""
    added, ratio = content["step"] / content["gradient"] - 1, content["whole"] / content["parts"]
    sentence = (
        f"Compiling the gradient of a network with {content['leaves']} leaves takes {content['gradient']:.0f} s, and "
        f"the whole step with AdamW {content['step']:.0f} s ({added:.2f} more); it then takes {ratio:.2f} of the "
        "compiled gradient with a step in place after it."
    )
    yield textwrap.fill(sentence, WIDTH)
    yield ""


def imports(content: dict[str, Any]) -> Iterator[str]:
    """Write the sentence about the import."""
    yield f"Importing optimfx adds {content['seconds']['added']:.2f} s to importing torch."
    yield ""


BENCHMARKS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "overhead": overheads,
    "host_path": host_path,
    "first_steps": first_steps,
    "matrices": matrices,
    "compile_time": compile_time,
    "functional": functional,
    "imports": imports,
}
"""In the order of the page, after that of the classes, which has a picture."""


def block(folder: Path) -> str:
    """Return the text between the marks."""
    lines: list[str] = []
    machine: dict[str, Any] = {}
    for name in ("classes", *BENCHMARKS):
        path = path_of(name, folder)
        content = load(path)
        if content is None:
            continue
        machine = content["machine"]
        lines += classes(content, path.with_suffix(".png")) if name == "classes" else BENCHMARKS[name](content)
    if not machine:
        raise SystemExit(f"there are no results of this machine in {folder}: make bench")
    sentence = (
        f"Measured by `make bench` on {machine['date']}: {machine['processor']}, {machine['cores']} cores, torch "
        f"{machine['torch']}; all methods in turns, the best of several rounds."
    )
    lines.append(textwrap.fill(sentence, WIDTH))
    return "\n".join(lines)


def filled(page: str, text: str, name: str = "benchmark") -> str:
    """The page with another text between the marks of this name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise SystemExit(f"the page has no block from {begin} to {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def _figures(cells: list[Cell]) -> str:
    return " | ".join([_pair(cells, "ours"), _pair(cells, "ours fused"), *(_pure(cells, name) for name in PURE)])


def _pure(cells: list[Cell], name: str) -> str:
    """The mean over torch's fastest: what is known is that over our class, and geometric means multiply."""
    over_ours, ours = summary(cells, name), summary(cells, "ours")
    return "" if over_ours is None or ours is None else f"{over_ours[0] * ours[0]:.2f}"


def _pair(cells: list[Cell], name: str) -> str:
    found = summary(cells, name)
    return " | " if found is None else f"{found[0]:.2f} | {found[1]:.2f} ({found[2].partition(',')[0]})"


BLOCKS = {"benchmark": block, "gpu": gpus}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("block", nargs="?", choices=BLOCKS, default="benchmark")
    parser.add_argument("--page", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=FOLDER, help="the folder of the JSON files")
    options = parser.parse_args()
    text = BLOCKS[options.block](options.results)
    options.page.write_text(filled(options.page.read_text(), text, options.block))


if __name__ == "__main__":
    main()
