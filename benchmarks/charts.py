"""The ratios as a chart: a panel for each workload, a group of bars for each algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from algorithms import ALGORITHMS
from cells import Cell, ratios
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Shade for the dtype, colour for the method.
COLORS = {
    ("ours", "float32"): "#1f4e8c",
    ("ours", "bfloat16"): "#8fb8e8",
    ("ours fused", "float32"): "#c2570c",
    ("ours fused", "bfloat16"): "#f5b98a",
}
NAMES = {"ours": "default flags", "ours fused": "fused=True"}
TICKS = [0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20]


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Bars hang below 1 where ours is faster than the best of torch's and stand above where it is slower."""
    workloads = list(dict.fromkeys(cell["workload"] for cell in cells))
    algorithms = [name for name in ALGORITHMS if name in {cell["algorithm"] for cell in cells}]
    present = {cell["dtype"] for cell in cells}
    series = [key for key in COLORS if key[1] in present]
    width = 0.84 / len(series)
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
                color=COLORS[method, dtype],
                label=f"{NAMES[method]}, {dtype}",
            )
        panel.axhline(1, color="black", linewidth=1, zorder=3)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator(TICKS))
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
    figure.suptitle("A step of optimfx.optim over the best of torch.optim's, CPU (below 1: faster)", fontsize=12)
    handles, labels = bottom.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
