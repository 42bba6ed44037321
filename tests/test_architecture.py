"""The design's rules about what may know what."""

import ast
import inspect
from pathlib import Path

import pytest

import optimfx as fx
from optimfx import ops

ROOT = Path(fx.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
RULES = sorted(path for path in (ROOT / "rules").glob("*.py") if path.name != "__init__.py")
KERNELS = sorted((ROOT / "execution" / "triton").glob("*.py"))

# What each part of the package may import of it, when it runs. Nothing may import optim.
ALLOWED = {
    "modes": set(),
    "rounding": {"modes"},
    "ops": {"modes", "rounding"},
    "tree": {"modes"},
    "printed": {"modes", "tree"},
    "states": {"printed"},
    "linalg": {"ops"},
    "execution": {"execution", "modes", "ops", "printed", "tree"},
    "base": {"execution", "printed", "states", "tree"},
    "line_search": {"base", "ops"},
    "quasi_newton": {"ops"},
    "minimizer": {"base", "execution", "modes", "tree"},
    "rules": {"base", "linalg", "line_search", "minimizer", "ops", "quasi_newton", "rules", "states"},
    "transforms": {"base", "combine", "ops", "rules", "transforms", "tree"},
    "update": {"base", "modes", "tree"},
    "combine": {"base", "execution", "states", "transforms", "tree", "update"},
    "multi_steps": {"base", "execution", "modes", "states", "tree", "update"},
    "describe": {"base", "execution", "printed"},
    "inject": {"base", "execution", "ops", "states", "update"},
    "closed_form": {"base"},
    "schedules": {"base", "closed_form", "ops"},
    "optim": {
        "base",
        "combine",
        "execution",
        "inject",
        "modes",
        "ops",
        "optim",
        "rules",
        "schedules",
        "transforms",
        "tree",
        "update",
    },
}


def part(path):
    """The module or folder directly under the package that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """The parts of the package that a file imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "optimfx":
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("optimfx."):
            parts.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("optimfx.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
    return parts


@pytest.mark.parametrize("path", [p for p in FILES if part(p) != "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    assert imported(path) <= ALLOWED[part(path)]


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_a_rule_knows_only_the_vocabulary(path):
    """No torch, no other library, and of ops only its public words, all of them documented."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            pytest.fail(f"imports {node.names[0].name}")
        if isinstance(node, ast.ImportFrom):
            assert node.module in {"__future__", "collections.abc", "typing"} or node.module.startswith("optimfx")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ops":
            assert node.attr in ops.__all__
    mathematics = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in ("leaf", "scalars")]
    for function in mathematics:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                another_rules = node.func.attr in ("leaf", "scalars")
                assert called.startswith("ops.") or another_rules, f"{called} is not of the vocabulary"


@pytest.mark.parametrize("path", RULES + KERNELS, ids=lambda p: p.stem)
def test_a_rule_and_what_makes_a_kernel_of_it_is_short(path):
    assert len(path.read_text().splitlines()) <= 180


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("word", ops.__all__)
def test_a_word_of_the_vocabulary_is_documented(word):
    assert getattr(ops, word).__doc__


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_triton_is_imported_only_where_it_is_needed(path):
    """Where it is missing, importing any part of the package, and collecting its doctests, must still do."""
    for node in ast.parse(path.read_text()).body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [module for module in modules if module.partition(".")[0] == "triton"]


def test_only_the_list_of_shipped_kernels_knows_what_they_are_of():
    """The audit reads it, a program that compiles all that the package exports."""
    files = [path for path in KERNELS if "import optimfx as fx" in path.read_text()]
    assert [path.stem for path in files] == ["shipped"]


def test_execution_names_no_algorithm():
    names = {path.stem for path in RULES}
    for path in (ROOT / "execution").rglob("*.py"):
        identifiers = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not identifiers & names, path


FACTORIES = [name for name in fx.__all__ if inspect.isfunction(getattr(fx, name))]
SCHEDULES = [name for name in fx.schedules.__all__]


@pytest.mark.parametrize("factory", [getattr(fx, n) for n in FACTORIES] + [getattr(fx.schedules, n) for n in SCHEDULES])
def test_a_public_function_has_a_doctest_and_names_its_arguments(factory):
    doc = inspect.getdoc(factory)
    if factory is not fx.transformation:
        assert ">>>" in doc
    for line in ("Args:", "Raises:") if len(inspect.signature(factory).parameters) > 3 else ():
        assert line in doc, f"{factory.__name__} has no {line}"


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_an_algorithm_says_where_it_comes_from(path):
    doc = inspect.getdoc(getattr(fx, path.stem))
    for part_of_doc in (".. math::", "Args:", "Returns:", "Raises:", "References:", ">>>"):
        assert part_of_doc in doc


def test_every_algorithm_and_link_is_in_the_catalogue():
    from catalogue import ALGORITHMS, LINKS

    # test_combine.py, test_multi_steps.py, test_parity_optax.py
    elsewhere = {"chain", "named_chain", "masked", "multi_steps", "partition", "stateless"}
    returns = {
        name for name in FACTORIES if inspect.signature(getattr(fx, name)).return_annotation == "GradientTransformation"
    } - {"transformation"}
    assert {row.name for row in ALGORITHMS + LINKS} | elsewhere == returns
