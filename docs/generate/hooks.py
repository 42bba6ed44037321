"""Hooks that MkDocs calls while it builds: they add the generated pages, the pictures and MathJax."""

from importlib.metadata import files as files_of
from typing import Any

import coming_from
import life_of_a_step
import pages
import paths
import programs
import rates
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MATHJAX = ("es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2/")
"""The files of MathJax that the pages need: one script, and the fonts that it looks for beside itself."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages where the navigation names their folder."""
    inside = {
        "algorithms/": ["algorithms/index.md", *[{name: f"algorithms/{name}.md"} for name in pages.algorithms()]],
        "coming-from/": [{library.name: f"coming-from/{name}.md"} for name, library in coming_from.LIBRARIES.items()],
        "reference/": ["reference/index.md", *[{title: f"reference/{name}.md"} for name, title in pages.API.items()]],
        "notebooks/": [*programs.notebooks()],
        "examples/": [*programs.examples()],
    }
    config.nav = [
        {title: [page for entry in entries for page in inside.get(str(entry), [entry])]}
        for section in config.nav or []
        for title, entries in section.items()
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in the folder."""
    made: dict[str, str | bytes] = {**programs.notebooks(), **programs.examples()}
    for name in pages.algorithms():
        path = paths.path_of(name)
        made[f"assets/paths/{name}.svg"] = paths.drawing(path)
        made[f"algorithms/{name}.md"] = pages.algorithm_page(name, path.lr, paths.STEPS)
    made["assets/schedules.svg"] = rates.drawing()
    made["assets/life_of_a_step.svg"] = life_of_a_step.drawing()
    made["algorithms/index.md"] = pages.algorithms_page()
    reference = pages.reference()
    made["reference/index.md"] = pages.reference_index(reference)
    for page, names in reference.items():
        made[f"reference/{page}.md"] = pages.reference_page(page, names)
    for name in coming_from.LIBRARIES:
        made[f"coming-from/{name}.md"] = coming_from.page(name)
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    for uri, path in programs.pictures():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for file in files_of("django-static-mathjax") or []:
        within = file.as_posix().partition("/static/mathjax/")[2]
        if within.startswith(MATHJAX):
            uri = within.replace("es5/", "assets/mathjax/", 1)
            files.append(File.generated(config, uri, abs_src_path=str(file.locate())))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Fill in what a page takes from the README; a wide table gets the whole width."""
    if max(line.count("|") for line in markdown.splitlines()) > 8:
        page.meta["hide"] = ["toc"]
    return pages.with_snippets(markdown)
