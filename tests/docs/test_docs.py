"""The site: its code runs, it has every public name, its tables are those of the libraries, and it builds."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import paste
import pytest

import optimfx as fx

DOCS = paste.ROOT / "docs"
sys.path.insert(0, str(DOCS / "generate"))

import coming_from  # noqa: E402
import docstrings  # noqa: E402
import pages  # noqa: E402
import programs  # noqa: E402

WITH_CODE = [path for path in sorted(DOCS.rglob("*.md")) if paste.blocks(path.read_text())]
PUBLIC = [f"{module}.{name}".lstrip(".") for module, names in docstrings.public_names().items() for name in names]
TABLES = [(library, module) for library, (_, _, tables) in coming_from.LIBRARIES.items() for module in tables]


# torch.distributed.optim, of ZeRO, is still scripted.
@pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.stem)
def test_every_block_of_the_guides_runs(path, fresh_compiler):
    paste.run(path)


def test_the_pages_with_code_are_found():
    assert {path.stem for path in WITH_CODE} >= {
        "quickstart",
        "functions",
        "one-graph",
        "classes",
        "own-rule",
        "how-do-i",
    }


@pytest.fixture(scope="module")
def generated():
    """The generated pages that mkdocstrings fills with docstrings."""
    texts = [pages.reference_page(page, names) for page, names in pages.reference().items()]
    return "\n".join(texts + [pages.algorithm_page(name, 0.1, 1) for name in pages.algorithms()])


@pytest.mark.parametrize("name", [name for name in PUBLIC if not inspect.ismodule(docstrings.at(name))])
def test_every_public_name_has_its_place(generated, name):
    path = re.escape(docstrings.documented(f"optimfx.{name}"))
    assert len(re.findall(rf"^(?:::: {path}|\[\]\(\){{ #{path} }})$", generated, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("name", pages.algorithms())
def test_the_page_of_an_algorithm(name):
    assert re.search(r"^\| recompiles \| 0 \|", pages.algorithm_page(name, 0.1, 1), flags=re.MULTILINE)
    assert "$$" in docstrings.markdown(inspect.getdoc(getattr(fx, name)))


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_become_markdown(name):
    text = docstrings.markdown(inspect.getdoc(docstrings.at(name)) or "")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r":\w+:`|(?<!`)``(?!`)|\.\. \w+::|>>>", outside)


def test_a_docstring_in_every_form():
    text = docstrings.markdown(
        """First :math:`a
        b` of ``x``, :func:`~optimfx.adamw`, :class:`LRScheduler`, :class:`torch.Tensor`.

.. math:: a = b

.. math::
    a &= b \\\\
    c &= d

Raises:
    ValueError, TypeError: one
        reason.
    KeyError: another.

>>> 1 + 1
2
"""
    )
    assert r"\(a b\) of `x`, [`adamw`][optimfx.adamw]" in text
    assert "[`LRScheduler`][optimfx.optim.lr_scheduler.LRScheduler], `torch.Tensor`." in text
    assert "$$\na = b\n$$" in text
    assert "\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}" in text
    assert "- `ValueError`, `TypeError`: one reason.\n- `KeyError`: another.\n" in text
    assert text.endswith("```pycon\n>>> 1 + 1\n2\n```\n")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_what_a_page_takes_from_the_readme_is_there(page):
    assert "<!-- readme" not in pages.with_snippets(page.read_text())


@pytest.mark.parametrize(("library", "module"), TABLES, ids=[module for _, module in TABLES])
def test_the_tables_have_every_name_of_theirs(library, module):
    names = coming_from.public(module)
    if names is None:
        pytest.skip(f"{module.partition('.')[0]} is not installed")
    shown = set(re.findall(r"`(\w+)`", coming_from.page(library)))
    assert names <= shown
    named = {name for row in coming_from.lines(coming_from.LIBRARIES[library].tables[module]) for name in row.theirs}
    assert named - {"*"} <= names


@pytest.mark.parametrize(("library", "module"), TABLES, ids=[module for _, module in TABLES])
def test_the_tables_name_what_there_is(library, module):
    for row in coming_from.lines(coming_from.LIBRARIES[library].tables[module]):
        for name in row.ours:
            assert docstrings.at(name) is not None
        if not row.ours:
            assert row.note, f"no name and no reason: {row.theirs}"
            assert not {*row.theirs} & {*fx.__all__, *fx.optim.__all__}


def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=paste.ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for asset in (
        "assets/mathjax/tex-chtml.js",
        "assets/paths/adamw.svg",
        "assets/schedules.svg",
        "assets/life_of_a_step.svg",
    ):
        assert Path(tmp_path / asset).stat().st_size > 10_000
    page = (tmp_path / "algorithms" / "adamw" / "index.html").read_text()
    assert '<div class="arithmatex">' in page and "paths/adamw.svg" in page
    for shown in ("<code>fx.step(inplace=True)</code>", 'href="../benchmarks/results/'):
        assert shown in (tmp_path / "speed" / "index.html").read_text()


def test_every_schedule_is_in_the_picture():
    pytest.importorskip("matplotlib")
    import rates

    assert rates.ARGUMENTS.keys() == {*fx.schedules.__all__}
    for name in rates.ARGUMENTS:
        rate = rates.rates_of(name)
        assert 0.9 <= max(rate) <= 1 and len({*rate}) > 1


def test_notebooks_and_examples_have_pages():
    """With their pictures, and links to each other's pages."""
    page = programs.notebooks()["notebooks/01_from_torch_optim_to_pure_functions.md"]
    assert "](data:image/png;base64," in page and "](02_a_thousand_learning_rates_at_once.md)" in page
    assert "](../examples/migration.md)" in page and ".ipynb" not in page
    assert programs.examples()["examples/digits.md"].startswith("# digits.py\n\n```python\n")
