"""The docstrings, which are reStructuredText, as Markdown: equations, roles, literals and doctests."""

import re
import textwrap
from functools import cache
from typing import Any

import optimfx as fx

MODULES = ("", "schedules", "projections", "optim", "optim.lr_scheduler", "optim.swa_utils", "execution", "ops")
"""The public modules, in the order in which a bare name is looked for."""


@cache
def public_names() -> dict[str, list[str]]:
    """List the public names of each module."""
    return {module: list(at(module).__all__) for module in MODULES}


def at(path: str) -> Any:
    """Find an object of optimfx by its dotted path."""
    found: Any = fx
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return found


def documented(name: str) -> str | None:
    """Find the path under which the pages document a name, given bare or in full."""
    name = name.removeprefix("~")
    for module in MODULES:
        for public in public_names()[module]:
            path = f"{module}.{public}".lstrip(".")
            if name in (public, f"optimfx.{path}") and path not in MODULES:
                # What is public in two places stands in the first.
                above = public in fx.__all__ and at(public) is at(path)
                return f"optimfx.{public if above else path}"
    return None


def markdown(text: str) -> str:
    """Convert a docstring to Markdown."""
    text = re.sub(r"^( *)\.\. math:: *(.*)\n((?:\1 +.*\n|\n)*)", _equation, text + "\n", flags=re.MULTILINE)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"^(`[^`\n]+`)\n {4}(?=\S)", r"\n\1\n:   ", text, flags=re.MULTILINE)  # a list of definitions
    text = re.sub(r"^( *)>>> .*\n(?:.+\n)*", _example, text, flags=re.MULTILINE)
    text = re.sub(r"^(References|Returns):\n((?: +.*\n)+)", _paragraph, text, flags=re.MULTILINE)
    text = re.sub(r"^Raises:\n((?: +.*\n)+)", _raises, text, flags=re.MULTILINE)
    # Names that share a line get one each.
    text = re.sub(
        r"^ {4}(\w+(?:, \w+)+): (.*)$",
        lambda found: "\n".join(f"    {name}: {found[2]}" for name in found[1].split(", ")),
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(r":math:`([^`]+)`", lambda found: rf"\({_one_line(found[1])}\)", text)
    return re.sub(r":(?:func|class|meth|mod):`([^`]+)`", _reference, text).strip() + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _equation(found: re.Match[str]) -> str:
    """Set an equation in display style, of several lines if it is cut or aligned."""
    body = textwrap.dedent(found[3]).strip() or found[2]
    if "&" in body or r"\\" in body:
        body = "\\begin{aligned}\n" + body + "\n\\end{aligned}"
    return textwrap.indent(f"\n$$\n{body}\n$$\n\n", found[1])


def _example(found: re.Match[str]) -> str:
    indent = found[1]
    return f"{indent}```pycon\n{found[0]}{indent}```\n"


def _paragraph(found: re.Match[str]) -> str:
    """Write a section of one paragraph."""
    return f"**{found[1]}:** {_one_line(found[2])}\n"


def _raises(found: re.Match[str]) -> str:
    """Write the errors as a list."""
    items = re.split(r"\n(?=\S)", textwrap.dedent(found[1]).strip())
    errors = [item.partition(":") for item in items]
    lines = ["- " + re.sub(r"(\w+)", r"`\1`", names) + f": {_one_line(why)}" for names, _, why in errors]
    return "**Raises:**\n\n" + "\n".join(lines) + "\n"


def _reference(found: re.Match[str]) -> str:
    """Write a role as a link where the pages document the name, else as code."""
    full = found[1]
    short = full.removeprefix("~").removeprefix("optimfx.")
    path = documented(full)
    return f"[`{short}`][{path}]" if path else f"`{short.rpartition('.')[2] if full[0] == '~' else short}`"
