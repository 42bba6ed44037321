"""Writes README.md's results of every GPU that was measured."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cells import Cell, summary
from gpu_methods import CLIPPED, OURS
from results import ROOT

WIDTH = 120
FUSED = ["SGD", "SGD-momentum", "Adam", "AdamW", "Adagrad", CLIPPED]
"""Rows that torch has a kernel of its own for."""
NONE = "None has been measured yet."


def gpus(folder: Path) -> str:
    """Return the text between the marks: the results of each GPU, or that there are none."""
    found = [(path, json.loads(path.read_text())) for path in sorted(folder.glob("gpu-*.json"))]
    parts = ["\n".join([*_gpu(content, path.with_suffix(".png")), *_beside(path)]) for path, content in found]
    return "\n\n".join(parts) or NONE


def _gpu(content: dict[str, Any], picture: Path) -> Iterator[str]:
    cells = [cell for cell in content["cells"] if cell["elementwise"]]
    yield f"**{content['machine'].get('gpu', 'Without a GPU')}**"
    yield ""
    yield from _shares(cells)
    yield ""
    yield from _beside_fused(cells)
    yield ""
    machine = content["machine"]
    commit = f" at commit {machine['commit']}" if machine.get("commit") else ""
    where = machine.get("gpu", machine["processor"])
    sentence = (
        f"Measured by `make gpu` on {machine['date']}{commit}: {where}, whose copies read "
        f"and write {content['copy_gigabytes_per_second']:.0f} GB/s; torch {machine['torch']}. Time over that of the "
        "fastest of torch's for-loop, foreach, fused and compiled, as geometric mean over the elementwise algorithms "
        "that torch has, and the worst of them; the share of a copy's bandwidth over all elementwise algorithms, if "
        "each column is read once and each result written once, and the gradients once more where their norm comes "
        "first. `tiny2000` is time of the host until the device is done."
    )
    if picture.is_relative_to(ROOT):
        sentence += f" Each algorithm: [chart]({picture.relative_to(ROOT).as_posix()})."
    yield textwrap.fill(sentence, WIDTH, break_on_hyphens=False, break_long_words=False)


def _beside(path: Path) -> Iterator[str]:
    """The host's time and that of a training step, where they were measured on the same GPU."""
    slug = path.name.removeprefix("gpu-")
    host, training = (path.with_name(f"{name}-{slug}") for name in ("host", "training"))
    if host.exists():
        yield ""
        yield from _host(json.loads(host.read_text())["cells"])
    if training.exists():
        yield ""
        yield from _training(json.loads(training.read_text()))


def _host(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A row for each algorithm: the host's time over that of torch's fused, by the number of tensors."""
    counts = list(dict.fromkeys(cell["tensors"] for cell in cells))
    times = {(cell["algorithm"], cell["tensors"]): cell["microseconds"] for cell in cells}
    yield f"| host time over torch's fused: class, `fx.step` | {' | '.join(map(str, counts))} tensors |"
    yield "|---|" + "---|" * len(counts)
    for algorithm in dict.fromkeys(cell["algorithm"] for cell in cells):
        ratios = []
        for count in counts:
            reference, *ours = times[algorithm, count].values()
            ratios.append(", ".join(f"{x / reference:.2f}" for x in ours))
        yield f"| {algorithm} | {' | '.join(ratios)} |"


def _training(content: dict[str, Any]) -> Iterator[str]:
    """The whole training step, eager and compiled."""
    times: dict[str, dict[str, float]] = content["milliseconds"]
    ways = list(dict.fromkeys(way for found in times.values() for way in found))
    yield f"| training step of {content['parameters'] / 1e6:.0f} M parameters, ms | {' | '.join(ways)} |"
    yield "|---|" + "---|" * len(ways)
    for name, found in times.items():
        cells = [f"{found[way]:.2f}" if way in found else "" for way in ways]
        yield f"| {name} | {' | '.join(cells)} |"
    if content["compile"]:
        yield ""
        seconds = [f"{name} {found:.0f} s" for name, found in content["compile"].items()]
        yield f"To compile: {', '.join(seconds)}."


def _shares(cells: Sequence[Cell]) -> Iterator[str]:
    """A row for each workload and dtype: over torch's best, and of a copy's bandwidth."""
    heads = [title for how in OURS.values() for title in (f"{how}: time", "worst", "bandwidth", "least")]
    yield f"| workload | dtype | {' | '.join(heads)} |"
    yield "|---|---|" + "---|" * len(heads)
    for workload, dtype in _places(cells):
        part = [cell for cell in cells if (cell["workload"], cell["dtype"]) == (workload, dtype)]
        columns = [column for name in OURS for column in (*_over_torch(part, name), *_share(part, name))]
        yield f"| `{workload}` | {dtype} | {' | '.join(columns)} |"


def _beside_fused(cells: Sequence[Cell]) -> Iterator[str]:
    """Against torch's own kernels alone: a row for each algorithm that has one."""
    places = _places(cells)
    yield f"| time over torch's fused: launched, replayed | {' | '.join(f'`{w}`, {d}' for w, d in places)} |"
    yield "|---|" + "---|" * len(places)
    for algorithm in FUSED:
        times = {(c["workload"], c["dtype"]): c["milliseconds"] for c in cells if c["algorithm"] == algorithm}
        if times:
            yield f"| {algorithm} | {' | '.join(_over_fused(times.get(place, {})) for place in places)} |"


def _places(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell["workload"], cell["dtype"]) for cell in cells))


def _over_torch(cells: Sequence[Cell], name: str) -> tuple[str, str]:
    found = summary(cells, name)
    return ("", "") if found is None else (f"{found[0]:.2f}", f"{found[1]:.2f} ({found[2].partition(',')[0]})")


def _share(cells: Sequence[Cell], name: str) -> tuple[str, str]:
    shares = {cell["algorithm"]: cell["share"][name] for cell in cells if name in cell["share"]}
    if not shares:
        return "", ""
    mean, least = math.exp(sum(map(math.log, shares.values())) / len(shares)), min(shares, key=lambda a: shares[a])
    return f"{100 * mean:.0f} %", f"{100 * shares[least]:.0f} % ({least})"


def _over_fused(times: dict[str, float]) -> str:
    return ", ".join(
        f"{times[name] / times['torch fused']:.2f}" for name in OURS if {name, "torch fused"} <= times.keys()
    )
