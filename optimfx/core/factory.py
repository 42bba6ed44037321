"""Makes factories check their arguments by their annotations, and document those that mean the same everywhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from optimfx.core.types import Hyper

OPTAX_WORDS = {
    "learning_rate": "lr",
    "b1": "the first of betas",
    "b2": "the second of betas",
    "b3": "the third of betas",
    "mu_dtype": "state_dtype",
    "accumulator_dtype": "state_dtype",
    "mask": "a combinator: masked or partition",
}
"""Arguments that Optax has under other names, and what they are here."""

ARGUMENTS = {
    "maximize": "maximize the objective: the gradients are negated.",
    "state_dtype": "dtype of the state, except the step count; ``None`` for the parameters' own.",
    "eps_root": r":math:`\epsilon_{\text{root}} \ge 0`, added under the root, in squared gradient units.",
}
"""The meaning of arguments in every factory whose docstring does not give another."""

P = ParamSpec("P")
T = TypeVar("T")


def factory(function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a function by their annotations before it is called, and complete its docstring.

    Raises:
        TypeError: an argument is not a number, tensor or schedule, or not a tuple of them where one is needed.
        ValueError: a number is outside of its range, or a tensor is not 0-d.
    """
    names = list(inspect.signature(function).parameters)
    hints = get_type_hints(function, include_extras=True)
    checks = {name: check for name, hint in hints.items() for check in getattr(hint, "__metadata__", ())}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name, value in (*zip(names, args), *kwargs.items()):
            if name in checks:
                checks[name](**{name: value})
            elif name in OPTAX_WORDS and name not in names:
                raise TypeError(f"{function.__name__} has no argument {name!r}: here it is {OPTAX_WORDS[name]}.")
        return function(*args, **kwargs)

    if function.__doc__ is not None:  # python -OO
        checked.__doc__ = _complete(inspect.cleandoc(function.__doc__), names)
    return checked


def _complete(doc: str, names: Sequence[str]) -> str:
    """Add to a docstring the arguments that mean everywhere the same, and what their check raises."""
    shared = "".join(
        f"\n    {name}: {ARGUMENTS[name]}"
        for name in names
        if name in ARGUMENTS and not re.search(rf"^    {name}:", doc, re.MULTILINE)
    )
    paragraphs = doc.split("\n\n")
    for i, paragraph in reversed(list(enumerate(paragraphs))):
        if paragraph.startswith("Returns:") and "\nRaises:" not in doc:
            paragraphs.insert(i + 1, "Raises:\n    ValueError, TypeError: an argument is out of range or not a scalar.")
        if paragraph.startswith("Args:"):
            paragraphs[i] += shared
    return "\n\n".join(paragraphs)


def hyper_names(function: Callable[..., Any]) -> frozenset[str]:
    """Return the arguments of a factory that are annotated as hyperparameters, or as tuples of them."""
    hints = get_type_hints(inspect.unwrap(function))
    return frozenset(name for name, hint in hints.items() if _mentions_hyper(hint))


def _mentions_hyper(hint: Any) -> bool:
    return hint == Hyper or any(map(_mentions_hyper, get_args(hint)))
