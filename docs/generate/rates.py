"""A picture of all schedules: the learning rate at each of 100 steps."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from paths import GREY, PATH

from optimfx import schedules

STEPS = 100
ARGUMENTS: dict[str, dict[str, Any]] = {
    "constant": {"factor": 0.5, "total_iters": 40},
    "linear": {"start_factor": 0.1, "total_iters": 60},
    "polynomial": {"total_iters": 80, "power": 2.0},
    "exponential": {"gamma": 0.97},
    "step_decay": {"step_size": 25, "gamma": 0.5},
    "multi_step": {"milestones": [30, 80], "gamma": 0.3},
    "lambda_schedule": {"lr_lambda": lambda step: 1 / (1 + step / 20)},
    "multiplicative": {"lr_lambda": lambda step: 0.95 if step < 50 else 1.0, "total_steps": STEPS},
    "cosine_annealing": {"T_max": STEPS},
    "cosine_annealing_warm_restarts": {"T_0": 15, "T_mult": 2},
    "cyclic": {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 20},
    "one_cycle": {"max_lr": 1.0, "total_steps": STEPS},
    "warmup_cosine": {"warmup_steps": 10, "total_steps": STEPS},
    "warmup_stable_decay": {"warmup_steps": 10, "stable_steps": 60, "decay_steps": 30},
    "join": {"schedules": [0.3, schedules.exponential(1.0, 0.95)], "milestones": [20]},
}
"""The arguments that each schedule is drawn with; a peak of 1 where it takes ``lr``."""


def rates_of(name: str) -> list[float]:
    """Return the learning rate of a schedule at each step."""
    schedule = getattr(schedules, name)
    given = ARGUMENTS[name] if name in ("cyclic", "one_cycle", "join") else {"lr": 1.0, **ARGUMENTS[name]}
    rate = schedule(**given)
    return [float(rate(step)) for step in range(STEPS)]


def drawing() -> bytes:
    """Make an SVG with a transparent ground, so that it can be read on a light page and on a dark one."""
    with matplotlib.rc_context({"svg.hashsalt": "optimfx", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 9), layout="constrained")
        for axes, name in zip(figure.subplots(5, 3, sharex=True, sharey=True).flat, ARGUMENTS):
            axes.plot(rates_of(name), color=PATH, linewidth=1.6)
            axes.set_title(name, color=GREY, fontsize=10)
            axes.tick_params(colors=GREY)
            axes.spines[:].set_color(GREY)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
