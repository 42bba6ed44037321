"""A picture of how a step runs: what is done once, and what at every step."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from paths import GREY, PATH

ROWS = {
    "once, for a transformation": ["fx.chain(...)\nof links", "lowered:\nrules in turn"],
    "once, for the shapes,\ndtypes and devices\nof the leaves": [
        "leaves that go through\nthe same rules",
        "executor for each\ndevice and dtype",
        "plan: order, packs,\naddresses, a guard",
    ],
    "at every step": [
        "flatten\nthe trees",
        "guard: are the\nleaves as before?",
        "scalars: rate,\nbias corrections",
        "launch: one pass\nover the leaves",
        "unflatten,\ncount",
    ],
}
"""The boxes of each row, from left to right."""

WIDTH, HEIGHT, RIGHT, DOWN = 2.1, 0.8, 2.55, 1.5
"""Of a box, and from one to the next."""
LEADS = [((0, 1), (1, 0), ""), ((1, 2), (2, 3), ""), ((2, 1), (1, 0), "if not")]
"""The arrows between rows: from a box (row, column), to a box, with a label."""


def drawing(form: str = "svg") -> bytes:
    """Make an SVG with a transparent ground, so that it can be read on a light page and on a dark one."""
    with matplotlib.rc_context({"svg.hashsalt": "optimfx", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(12.4, 4), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=(-2.6, 5 * RIGHT), ylim=(0, len(ROWS) * DOWN), aspect="equal")
        for row, (title, boxes) in enumerate(ROWS.items()):
            axes.text(-2.5, _corner(row, 0)[1] + HEIGHT / 2, title, color=GREY, fontsize=10, va="center")
            for column, text in enumerate(boxes):
                x, y = _corner(row, column)
                outline = "round,pad=0,rounding_size=0.12"
                axes.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, outline, fill=False, edgecolor=PATH))
                axes.text(x + WIDTH / 2, y + HEIGHT / 2, text, color=GREY, fontsize=9.5, ha="center", va="center")
                if column:
                    _arrow(axes, (x - RIGHT + WIDTH, y + HEIGHT / 2), (x, y + HEIGHT / 2))
        for begin, end, text in LEADS:
            down = begin[0] < end[0]
            (x0, y0), (x1, y1) = _corner(*begin), _corner(*end)
            edges = (x0 + WIDTH / 2, y0 + HEIGHT * (not down)), (x1 + WIDTH / 2, y1 + HEIGHT * down)
            _arrow(axes, *edges, text)
        file = io.BytesIO()
        svg: dict[str, Any] = {"transparent": True, "metadata": {"Date": None}} if form == "svg" else {}
        figure.savefig(file, format=form, **svg)
    return file.getvalue()


def _corner(row: int, column: int) -> tuple[float, float]:
    """Return the lower left corner of a box."""
    return column * RIGHT, (len(ROWS) - 1 - row) * DOWN + 0.3


def _arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    style = {"arrowstyle": "-|>", "color": GREY, "linestyle": "dashed" if text else "solid"}
    axes.annotate("", end, begin, arrowprops=style | {"shrinkA": 1, "shrinkB": 1})
    axes.text((begin[0] + end[0]) / 2 + 0.1, (begin[1] + end[1]) / 2, text, color=GREY, fontsize=9)
