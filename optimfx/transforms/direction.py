"""The direction of an algorithm: its update without learning rate and sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimfx.core import GradientTransformation


def direction_of(algorithm: GradientTransformation, name: str) -> GradientTransformation:
    """Make the rule of an algorithm at ``lr=-1``, under a name of its own."""
    update: Any = algorithm.update
    direction: GradientTransformation = replace(
        update, name=name, hyper={**update.hyper, "lr": -1.0}
    ).as_transformation()
    return direction
