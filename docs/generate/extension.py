"""Hooks that mkdocstrings calls for every object that it reads."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from griffe import Class, Extension, Function, Object, Parameter, ParameterKind, Parameters

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import markdown


class Docstrings(Extension):
    """Converts docstrings, and gives classes the arguments that Python sees."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Convert one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        """Find the arguments of an optimizer whose source does not show them: they are torch's or its algorithm's."""
        if cls.path.startswith("optimfx.optim.") and "__init__" not in cls.members:
            found = getattr(importlib.import_module(cls.module.path), cls.name, None)
            if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
                init = Function("__init__", parameters=Parameters(Parameter("self", kind=SELF), *_parameters(found)))
                cls.set_member("__init__", init)


SELF = ParameterKind.positional_or_keyword


def _parameters(found: Any) -> list[Parameter]:
    return [
        Parameter(p.name, kind=getattr(ParameterKind, p.kind.name.lower()), default=_default(p))
        for p in inspect.signature(found).parameters.values()
    ]


def _default(parameter: inspect.Parameter) -> str | None:
    return None if parameter.default is parameter.empty else repr(parameter.default)
