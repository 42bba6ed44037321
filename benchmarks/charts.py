"""The ratios as a chart: a panel for each workload, a group of bars for each algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from cells import Cell, ratios
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Shade for the dtype, colour for the method.
SHADES = ["float32", "bfloat16"]
COLORS = [("#1f4e8c", "#8fb8e8"), ("#c2570c", "#f5b98a")]
NAMES = {"ours": "default flags", "ours fused": "fused=True"}
TICKS = [0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.5, 2, 3, 5, 10, 20]
STEEP = 10
"""From the least ratio to the greatest: above, ticks are left out."""
FAR_TICKS = [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]


def draw(cells: Sequence[Cell], path: Path, where: str = "CPU", names: Mapping[str, str] = NAMES) -> None:
    """Bars hang below 1 where ours is faster than the best of torch's and stand above where it is slower.

    Args:
        cells: of which those are drawn that torch has something to compare with.
        path: of the picture.
        where: it was measured.
        names: of two methods, what they are called.
    """
    cells = [cell for cell in cells if ratios(cell)]
    workloads = list(dict.fromkeys(cell["workload"] for cell in cells))
    algorithms = list(dict.fromkeys(cell["algorithm"] for cell in cells))
    present = {(method, cell["dtype"]) for cell in cells for method in cell["milliseconds"]}
    series = [(method, dtype) for method in names for dtype in SHADES if (method, dtype) in present]
    colors = {method: shades for method, shades in zip(names, COLORS)}
    width = 0.84 / len(series)
    found_ratios = [ratio for cell in cells for ratio in ratios(cell).values()]
    ticks = FAR_TICKS if max(found_ratios) > STEEP * min(found_ratios) else TICKS
    size = max(8.0, 1.5 + 0.85 * len(algorithms)), 1.1 + 2.5 * len(workloads)
    figure, panels = plt.subplots(
        len(workloads), 1, figsize=size, sharex=True, sharey=True, squeeze=False, constrained_layout=True
    )
    for panel, workload in zip(panels[:, 0], workloads):
        for i, (method, dtype) in enumerate(series):
            found = {c["algorithm"]: ratios(c) for c in cells if (c["workload"], c["dtype"]) == (workload, dtype)}
            there = [(x, found[a][method]) for x, a in enumerate(algorithms) if method in found.get(a, {})]
            panel.bar(
                [x + (i - (len(series) - 1) / 2) * width for x, _ in there],
                [ratio - 1 for _, ratio in there],
                width,
                bottom=1,
                color=colors[method][SHADES.index(dtype)],
            )
        panel.axhline(1, color="black", linewidth=1, zorder=3)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator(ticks))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.grid(axis="y", color="0.85")
        for between in range(len(algorithms) - 1):
            panel.axvline(between + 0.5, color="0.92", linewidth=1)
        panel.set_axisbelow(True)
        panel.set_title(workload, loc="left", fontsize=11)
        panel.set_ylabel("time ratio")
    bottom = panels[-1, 0]
    bottom.set_xticks(range(len(algorithms)), algorithms, rotation=30, ha="right")
    bottom.set_xlim(-0.6, len(algorithms) - 0.4)
    figure.suptitle(f"A step over the best of torch.optim's (below 1: faster)\n{where}", fontsize=12)
    # Patches: of a series that is not in the last panel, the bars there have no colour.
    handles = [Patch(color=colors[m][SHADES.index(dtype)], label=f"{names[m]}, {dtype}") for m, dtype in series]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
