"""The generated pages, as Markdown by their paths in the site."""

import inspect
import re
from pathlib import Path

from docstrings import at, documented, markdown, public_names

import optimfx as fx

OF_MATRICES = ("muon", "normuon", "adamuon", "dion", "scion", "soap", "shampoo", "kron")
"""Algorithms that step nothing else."""

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent

API = {
    "functions": "Transformations",
    "links": "Links",
    "combinators": "Combinators",
    "schedules": "Schedules",
    "projections": "Projections",
    "optim": "Optimizer classes",
    "lr_scheduler": "Scheduler classes",
    "swa_utils": "Averages of a model",
    "execution": "Execution",
    "ops": "Words of a rule",
}
"""The pages of the reference, and their titles."""

MEMBERS = {"optim.Optimizer": ("load_state_dict",), "optim.TransformOptimizer": ("step", "state_of")}
"""The methods of classes that are not as torch's."""


def defined_in(name: str) -> str:
    """Find the module below optimfx in which a public name of it is defined."""
    return getattr(getattr(fx, name), "__module__", "").removeprefix("optimfx.")


def algorithms() -> list[str]:
    """List the names of the algorithms."""
    return [name for name in fx.__all__ if defined_in(name).startswith("rules.")]


def summary(path: str) -> str:
    """Cut out the first sentence of a docstring."""
    first = " ".join(markdown(inspect.getdoc(at(path)) or "").split("\n\n")[0].split())
    return first.replace("|", "\\|")


# ---------------------------------------------------------------------------------------------------- algorithms


def conformance(name: str) -> str:
    """Write the row of the conformance matrix of one algorithm, as a table with a line for each column."""
    text = (DOCS / "conformance.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    columns = rows[0][1:]
    meaning = {row[0]: row[1] for row in rows if len(row) == 2}
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, flags=re.MULTILINE))
    row = next((row for row in rows if row[0].startswith(f"`{name}`")), None)
    if row is None:
        return ""
    lines = ["| what | result | |", "|---|---|---|"]
    lines += [f"| {column} | {cell} | {meaning[column]} |" for column, cell in zip(columns, row[1:])]
    cited = [number for number in notes if f"({number})" in "".join(row)]
    lines += ["", *[f"({number}) {notes[number]}.\n" for number in cited]]
    return "\n".join(lines)


def algorithm_page(name: str, lr: float, steps: int) -> str:
    """One algorithm: its docstring, its path, its row of the conformance matrix."""
    cls = next((c for c in fx.optim.__all__ if c.lower() == name.replace("_", "")), None)
    as_class = f" As a class: [`fx.optim.{cls}`][optimfx.optim.{cls}]." if cls else ""
    fitted = "as a matrix of one row, " if name in OF_MATRICES else ""
    return f"""---
title: {name}
---

::: optimfx.{name}
    options:
      heading_level: 1

## Path

![The path of {name} on Beale's function](../assets/paths/{name}.svg)

{steps} steps of `fx.{name}(lr={lr:.2g})` on Beale's function, {fitted}in float64. Of 26 learning rates from 1e-4 to 10,
this is the one whose path stays in the picture and ends lowest; all else is as by default. `make docs` draws it.

## As it is written

{source(name)}

## Conformance

What `make matrix` found ([all algorithms](../conformance.md)).{as_class}

{conformance(name)}
"""


def source(name: str) -> str:
    """Take the mathematics of an algorithm from its file."""
    path = Path(str(inspect.getsourcefile(inspect.unwrap(getattr(fx, name))))).relative_to(ROOT)
    text = (ROOT / path).read_text()
    begin = text.index("\nclass ") if "\nclass " in text else text.index("\ndef ")
    rule = text[begin : text.index("\n@factory")].strip()
    return f"`{path}`:\n\n```python\n{rule}\n```"


def algorithms_page() -> str:
    """List the algorithms."""
    lines = [f"| [`{name}`]({name}.md) | {summary(name)} |" for name in algorithms()]
    return "\n".join(
        [
            "# Algorithms",
            "",
            "Each is a function that returns a transformation. A page has its equation, its arguments, its path on a",
            "function of two variables, and what the tests found out about it.",
            "",
            "| algorithm | what it does |",
            "|---|---|",
            *lines,
            "",
        ]
    )


# ----------------------------------------------------------------------------------------------------- reference


def reference() -> dict[str, list[str]]:
    """List the public names that each page of the reference documents; algorithms have pages of their own."""
    pages: dict[str, list[str]] = {page: [] for page in API}
    for name in fx.__all__:
        where = defined_in(name)
        if inspect.ismodule(getattr(fx, name)) or name in algorithms():
            continue
        kind = "links" if where.startswith(("transforms.", "core.stateless")) else "functions"
        pages["combinators" if where.startswith("combinators.") else kind].append(name)
    for module in ("schedules", "projections", "optim", "optim.lr_scheduler", "optim.swa_utils", "execution", "ops"):
        names = [f"{module}.{name}" for name in public_names()[module]]
        pages[module.rpartition(".")[2]] += [name for name in names if not inspect.ismodule(at(name))]
    return {
        page: [name for name in names if documented(f"optimfx.{name}") == f"optimfx.{name}"]
        for page, names in pages.items()
    }


def directive(name: str) -> str:
    """Write what asks mkdocstrings for a name; one that its module has too is asked for where it is defined."""
    home = getattr(at(name), "__module__", "")
    if home.rpartition(".")[2] != name.rpartition(".")[2]:
        return f"::: optimfx.{name}\n"
    return f"[](){{ #optimfx.{name} }}\n\n::: {home}.{at(name).__qualname__}\n"


def reference_page(page: str, names: list[str]) -> str:
    """List the names of one page, each with its signature and docstring."""
    text = [f"# {API[page]}\n"]
    if page == "schedules":
        text.append("![The learning rate of each schedule over 100 steps](../assets/schedules.svg)\n")
    for name in names:
        block = directive(name)
        if name in MEMBERS:
            block += f"    options:\n      members: [{', '.join(MEMBERS[name])}]\n"
        text.append(block)
    return "\n".join(text)


def reference_index(pages: dict[str, list[str]]) -> str:
    """Every public name, by page."""
    groups = {f"[Algorithms](../algorithms/index.md), `{prefix(algorithms()[0])}`": algorithms()}
    groups |= {f"[{API[page]}]({page}.md), `{prefix(names[0])}`": names for page, names in pages.items()}
    text = ["# Reference\n", "Every public name.\n"]
    for title, names in groups.items():
        text.append(f"**{title}**\n\n" + " ".join(f"[`{n.rpartition('.')[2]}`][optimfx.{n}]" for n in names) + "\n")
    return "\n".join(text)


def prefix(name: str) -> str:
    """Write what stands before a public name where it is used."""
    return f"fx.{name}".rpartition(".")[0] + "."


# ------------------------------------------------------------------------------------------------------- snippets


def readme(heading: str) -> str:
    """Copy a section of the README, without its heading, with links as they are in the site."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no section {heading!r}.")
    return linked(found[1]).strip()


def readme_table(first_cell: str) -> str:
    """Copy the table of the README whose head begins with this cell."""
    found = re.search(rf"^\| {re.escape(first_cell)} \|.*\n(?:\|.*\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"README.md has no table that begins with {first_cell!r}.")
    return linked(found[0])


def linked(text: str) -> str:
    """Rewrite the links of a text of the repository as they are in the site: what is in docs/ is at the root there."""
    text = re.sub(r"\]\(((?:\.\./)?)docs/", r"](\1", text).replace("README.md)", "index.md)")
    return re.sub(r"(\]\([\w./]+)\.(?:ipynb|py)\)", r"\1.md)", text)


def with_snippets(text: str) -> str:
    """Fill a page with what it takes from the README: ``<!-- readme: Heading -->``, ``<!-- readme table: cell -->``."""
    text = re.sub(r"<!-- readme: (.+?) -->", lambda found: readme(found[1]), text)
    return re.sub(r"<!-- readme table: (.+?) -->", lambda found: readme_table(found[1]), text)
