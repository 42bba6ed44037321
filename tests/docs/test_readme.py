"""The README: its code runs, and every public name is on it."""

import re

import paste
import pytest

import optimfx as fx

README = paste.ROOT / "README.md"


def test_every_block_of_the_readme_runs(fresh_compiler, capsys):
    session = paste.run(README)
    assert len(paste.blocks(README.read_text())) >= 8
    assert "executor" in capsys.readouterr().out
    assert session["loss"](session["params"]).isfinite()


@pytest.mark.parametrize("name", [*fx.__all__, *fx.schedules.__all__])
def test_every_public_name_is_on_the_page(name):
    types = {"GradientTransformation", "EmptyState", "StepState", "Locality", "global_norm"}
    assert name in types or re.search(rf"\b{name}\b", README.read_text())


def test_the_package_is_typed():
    """As its classifier says; without the file, type checkers ignore its annotations."""
    assert '"Typing :: Typed"' in (paste.ROOT / "pyproject.toml").read_text()
    assert (paste.ROOT / "optimfx" / "py.typed").exists()


def test_the_changelog_has_this_version():
    assert f"\n## {fx.__version__}\n" in (paste.ROOT / "CHANGELOG.md").read_text()
