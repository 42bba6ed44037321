"""The cells as tables on a terminal."""

from __future__ import annotations

from algorithms import OURS, PURE, TORCH
from cells import Cell, ratios, summary
from rich.table import Table

METHODS = [*TORCH, *OURS, *PURE]
RATIOS = {name: f"{name} / torch's best" for name in OURS} | {name: f"{name} / ours" for name in PURE}

NOTE = "* not elementwise"


def time_table(cells: list[Cell], title: str) -> Table:
    """The cells of one workload and dtype."""
    shown = ["ours", "ours fused", *PURE]
    table = Table(title=f"{title}: one step, ms", caption=NOTE)
    table.add_column("algorithm", no_wrap=True)
    for name in [*METHODS, *(RATIOS[name] for name in shown), "first step of ours fused, s"]:
        table.add_column(name, justify="right")
    for cell in cells:
        times, over, first = cell["milliseconds"], ratios(cell), cell["first_step_milliseconds"].get("ours fused")
        table.add_row(
            _name(cell),
            *(_figure(times.get(name)) for name in METHODS),
            *(_figure(over.get(name)) for name in shown),
            "" if first is None else f"{first / 1e3:.2f}",
        )
    return table


def memory_table(cells: list[Cell]) -> Table:
    """Memory that a step needs beyond parameters, gradients and state, for those large enough to tell."""
    table = Table(title="Extra memory at the peak of a step, percent of the parameters", caption=NOTE)
    for name in ("workload", "dtype", "algorithm"):
        table.add_column(name, no_wrap=True)
    for name in METHODS:
        table.add_column(name, justify="right")
    for cell in cells:
        peak = cell["peak_extra_percent"]
        if peak:
            percents = (f"{peak[name]:.0f}" if name in peak else "" for name in METHODS)
            table.add_row(cell["workload"], cell["dtype"], _name(cell), *percents)
    return table


def summary_table(cells: list[Cell]) -> Table:
    """Geometric mean and worst of each ratio."""
    table = Table("ratio", "over", "geometric mean", "worst", "where", title="All cells; below 1 is faster")
    for name, title in RATIOS.items():
        for elementwise in (True, False):
            found = summary([cell for cell in cells if cell["elementwise"] is elementwise], name)
            if found:
                kind = "elementwise" if elementwise else "others"
                table.add_row(title, kind, _figure(found[0]), _figure(found[1]), found[2])
    return table


def device_table(cells: list[Cell], title: str, methods: list[str]) -> Table:
    """The cells of one workload and dtype on a device, and which share of a copy's bandwidth ours reach."""
    methods = [name for name in methods if any(name in cell["milliseconds"] for cell in cells)]
    ours = [name for name in methods if name.startswith("ours")]
    table = Table(title=f"{title}: one step, ms", caption=NOTE)
    table.add_column("algorithm", no_wrap=True)
    for name in [*methods, *(f"{name} / torch's best" for name in ours), *(f"{name}, % of a copy" for name in ours)]:
        table.add_column(name, justify="right")
    for cell in cells:
        times, over, share = cell["milliseconds"], ratios(cell), cell["share"]
        percents = (f"{100 * share[name]:.0f}" if name in share else "" for name in ours)
        figures = [_figure(times.get(name)) for name in methods] + [_figure(over.get(name)) for name in ours]
        table.add_row(_name(cell), *figures, *percents)
    return table


def _name(cell: Cell) -> str:
    return str(cell["algorithm"]) + ("" if cell["elementwise"] else " *")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
