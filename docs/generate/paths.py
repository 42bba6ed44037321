"""A picture of each algorithm's path on a function of two variables."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from pages import OF_MATRICES

import optimfx as fx

START = (0.5, -0.8)
MINIMUM = (3.0, 0.5)
STEPS = 100
LOW, HIGH = (0.0, -1.2), (4.0, 1.2)
GREY, PATH, STAR = "#8a8a8a", "#e4572e", "#2e86ab"


def beale(x: Any, y: Any) -> Any:
    """Steep walls and a flat valley; the minimum is 0 at (3, 0.5)."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def height(point: torch.Tensor) -> torch.Tensor:
    """Beale's function of a point, of whatever shape."""
    return beale(*point.flatten())


class Path(NamedTuple):
    """Where an algorithm went: the points from the first to the last, and the learning rate that it went with."""

    points: torch.Tensor
    lr: float
    shape: tuple[int, ...]


def paths_of(make: Callable[..., Any], lrs: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """All points of the paths with these learning rates, as one training loop under ``vmap``."""
    points = torch.tensor(START, dtype=torch.float64).reshape(shape).expand(len(lrs), *shape)
    value_and_grad = torch.func.grad_and_value(height)

    def step(lr: Any, state: Any, point: Any) -> Any:
        if make is fx.lbfgs:
            return fx.step(tx(lr), None, state, point, value_and_grad_fn=lambda x: value_and_grad(x)[::-1])
        grad, value = value_and_grad(point)
        return fx.step(tx(lr), grad, state, point, value=value)

    def tx(lr: Any) -> fx.GradientTransformation:
        # One iteration in a step, so that a point of L-BFGS's path is one of its steps too.
        return make(lr=lr, max_iter=1) if make is fx.lbfgs else make(lr=lr)

    state = torch.vmap(lambda lr, point: tx(lr).init(point))(lrs, points)
    trail = [points]
    for _ in range(STEPS):
        points, state = torch.vmap(step)(lrs, state, points)
        trail.append(points)
    return torch.stack(trail, 1).reshape(len(lrs), STEPS + 1, 2)


def path_of(name: str) -> Path:
    """Return the one of 26 learning rates whose path stays in the picture and ends lowest; all else as by default."""
    lrs = torch.logspace(-4, 1, 26, dtype=torch.float64)
    shape = (1, 2) if name in OF_MATRICES else (2,)
    paths = paths_of(getattr(fx, name), lrs, shape)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    inside = ((paths >= low) & (paths <= high)).all(-1).all(-1)
    ends = torch.stack([height(path[-1]) for path in paths])
    best = int(torch.where(inside, ends, torch.inf).argmin())
    return Path(paths[best], float(lrs[best]), shape)


def drawing(path: Path) -> bytes:
    """Make an SVG with a transparent ground, so that it stands on a light page and on a dark one."""
    x, y = torch.meshgrid(torch.linspace(LOW[0], HIGH[0], 161), torch.linspace(LOW[1], HIGH[1], 161), indexing="xy")
    with matplotlib.rc_context({"svg.hashsalt": "optimfx", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6, 4.2), layout="constrained")
        axes = figure.subplots()
        levels = torch.logspace(-2, 2.2, 14)
        axes.contour(x.numpy(), y.numpy(), beale(x, y).numpy(), levels.tolist(), colors=GREY, linewidths=0.6, alpha=0.7)
        axes.plot(*path.points.T.numpy(), color=PATH, linewidth=1.2, marker=".", markersize=3.5)
        axes.plot(*START, "o", color=PATH, markersize=8)
        axes.plot(*MINIMUM, "*", color=STAR, markersize=14)
        axes.annotate("start", START, (8, 6), textcoords="offset points", color=GREY)
        axes.annotate("minimum", MINIMUM, (10, -12), textcoords="offset points", color=GREY)
        axes.set(xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]))
        axes.tick_params(colors=GREY)
        axes.spines[:].set_color(GREY)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
