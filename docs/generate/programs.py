"""The pages of notebooks and examples, as Markdown by their paths in the site."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import ROOT, linked


def notebooks() -> dict[str, str]:
    """Write a page for each notebook, with what it showed when it was run."""
    return {f"notebooks/{path.stem}.md": notebook_page(path) for path in sorted(ROOT.glob("notebooks/*.ipynb"))}


def examples() -> dict[str, str]:
    """Write a page for each example: its code."""
    paths = sorted(ROOT.glob("examples/*.py"))
    return {f"examples/{path.stem}.md": f"# {path.name}\n\n{fenced(path.read_text(), 'python')}" for path in paths}


def notebook_page(path: Path) -> str:
    """Write the cells in turn, each with its outputs."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(linked(source))
        else:
            parts += [fenced(source, "python"), *map(shown, cell["outputs"])]
    return "\n\n".join(parts)


def shown(output: dict[str, Any]) -> str:
    """Write a picture, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![](data:image/png;base64,{''.join(data['image/png'].split())})"
    return fenced("".join(output.get("text") or data["text/plain"]), "text")


def fenced(text: str, language: str) -> str:
    """Write a block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def pictures() -> Iterator[tuple[str, Path]]:
    """List the charts that pages show, by their paths in the site."""
    for path in ROOT.glob("benchmarks/results/*.png"):
        yield path.relative_to(ROOT).as_posix(), path
