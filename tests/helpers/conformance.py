"""The conformance matrix: what the tests that carry a column found out about each algorithm, as a page.

Part of every run that is not narrowed down: it fails if the page says otherwise. ``--matrix`` writes the page.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from catalogue import ALGORITHMS, Row

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

COLUMNS = {
    "torch": "largest difference from `torch.optim` with `foreach=False`, in ulp: parameters and state, 50 steps",
    "Optax": "largest difference from Optax: float64, 20 steps",
    "vmap": "`vmap` over models equals the loop",
    "vmap over hyperparameters": "`vmap` over lr and weight decay equals the loop, as arguments and in the state",
    "grad through the update": "reverse mode through three steps, w.r.t. the parameters, equals finite differences",
    "grad w.r.t. lr": "the same w.r.t. a tensor learning rate",
    "jvp": "forward mode equals reverse mode",
    "compile": "five steps in one graph of `torch.compile(fullgraph=True)` equal eager",
    "recompiles": "how often it recompiles while lr, betas and weight decay change: tensors, injected, schedules",
    "None leaves": "a leaf without gradient keeps its bits, its state and its count",
    "complex": "complex parameters step as pairs of reals",
    "in place": "`inplace=True` gives the same bits, in the buffers it was given",
    "half precision": "float16 and bfloat16: the float32 step from the same values, rounded once",
    "float64 error": "error in float32 against a float64 run, over torch's own",
}
"""Every column, with what a figure or an ``ok`` in it says."""

Results = dict[tuple[str, str], list[tuple[bool, Any]]]
"""By row and column: whether a test passed, and the figure ``(number, unit)`` that it measured, or None."""


def page(results: Results, rows: Iterable[Row] = ALGORITHMS) -> str:
    """The matrix in Markdown. Notes are numbered below it."""
    notes: list[str] = []
    lines = [
        "# What holds for which algorithm",
        "",
        "Written by `make matrix` from the tests; a test run that finds something else fails.",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for row in rows:
        cells = [_cell(row, column, results.get((row.name, column), []), notes) for column in COLUMNS]
        name = f"`{row.name}`" + (_note(row.note, notes) if row.note else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "A dash: nothing to compare with. The other library does not have the algorithm, or defines it otherwise.",
        "",
    ]
    lines += [f"{i}. {note}" for i, note in enumerate(notes, 1)]
    lines += ["", "| column | what it says |", "|---|---|"]
    lines += [f"| {column} | {meaning} |" for column, meaning in COLUMNS.items()]
    return "\n".join(lines) + "\n"


def differences(old: str, new: str) -> list[str]:
    """The lines in which two pages differ by more than a figure that is not worse."""
    before, after = old.splitlines(), new.splitlines()
    if len(before) != len(after):
        return [f"- {line}" for line in before if line not in after] + [f"+ {x}" for x in after if x not in before]
    return [f"- {a}\n+ {b}" for a, b in zip(before, after) if not _alike(a, b)]


def _cell(row: Row, column: str, found: list[tuple[bool, Any]], notes: list[str]) -> str:
    if column in row.reasons:
        return f"no{_note(row.reasons[column], notes)}"
    if not found:
        return "-"
    if not all(passed for passed, _ in found):
        return "**fails**"
    figures = [figure for _, figure in found if figure is not None]
    if not figures:
        return "ok"
    number, unit = max(figures)
    return _number(number) + (_note(unit, notes) if unit else "")


def _note(text: str, notes: list[str]) -> str:
    if text not in notes:
        notes.append(text)
    return f" ({notes.index(text) + 1})"


def _number(x: float) -> str:
    """Small ones as the power of ten above: further digits are those of a machine."""
    return f"{10.0 ** math.ceil(math.log10(x)):.0e}" if 0 < x < 1e-3 else f"{x:.3g}"


def _alike(old: str, new: str) -> bool:
    """Equal except for figures, which may be better, or worse by a power of ten on another machine."""
    figure = re.compile(r"(?<=\| )\d[\d.e+-]*(?=[ ])")
    if figure.sub("#", old) != figure.sub("#", new):
        return False
    return all(float(b) <= 10 * float(a) for a, b in zip(figure.findall(old), figure.findall(new)))


class Plugin:
    """Collects reports; in a run with workers, only where they come together."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results: Results = defaultdict(list)
        self.complaint = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if "cell" in properties and (report.when == "call" or report.failed):
            self.results[tuple(properties["cell"])].append((report.passed, properties.get("figure")))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.config.option.matrix:
            PAGE.write_text(page(self.results))
        elif self._whole() and (found := differences(PAGE.read_text(), page(self.results))):
            self.complaint = "\n".join(["docs/conformance.md is stale; write it anew with `make matrix`:", *found])
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.complaint:
            terminalreporter.section("conformance matrix", red=True)
            terminalreporter.write_line(self.complaint)

    def _whole(self) -> bool:
        """Whether every test of every column ran."""
        narrowing = ("keyword", "markexpr", "lf", "deselect", "maxfail")
        narrowed = any(getattr(self.config.option, name, None) for name in narrowing)
        return self.config.args_source is pytest.Config.ArgsSource.TESTPATHS and not narrowed and bool(self.results)


def mark(item: pytest.Item) -> None:
    """Say in the item's report which cell it belongs to."""
    marker = item.get_closest_marker("column")
    if marker is not None:
        (column,) = marker.args
        assert column in COLUMNS, f"there is no column {column!r}"
        item.user_properties.append(("cell", (item.callspec.params["row"].name, column)))
