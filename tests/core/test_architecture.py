"""The design's rules about what may know what."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import optimfx as fx
from optimfx import ops

ROOT = Path(fx.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
RULES = sorted(path for path in (ROOT / "rules").glob("*.py") if path.name != "__init__.py")
TRITON = "execution.executors.triton"
KERNELS = sorted(ROOT.joinpath(*TRITON.split(".")).rglob("*.py"))

DATA = {"core", "execution.leaves", "execution.memory", "execution.program", "execution.step"}
"""The modules that executors are made of."""

# The rooms that each may import; a room may always import itself and the rooms in it. They are in an order
# in which each imports only those above it.
ROOMS = {
    "core": set(),
    "ops": {"core"},
    "schedules": {"core", "ops"},
    "execution.leaves": {"core"},
    "execution.memory": {"core", "execution.leaves"},
    "execution.step": {"core", "execution.leaves", "execution.memory"},
    "execution.program": {"core", "ops", "execution.memory", "execution.step"},
    "execution.executors.base": {"core", "execution.leaves", "execution.step"},
    "execution.executors.eager": {*DATA, "execution.executors.base"},
    "execution.executors.custom_op": {*DATA, "execution.executors.base", "execution.executors.eager"},
    f"{TRITON}.runtime": {"core", "execution.leaves", "execution.memory"},
    f"{TRITON}.codegen": {*DATA, "ops", f"{TRITON}.runtime"},
    TRITON: {*DATA, "execution.executors.base", "execution.executors.custom_op"},
    "execution.executors": DATA,
    "execution.dispatch": {"core", "execution.executors", "execution.leaves", "execution.step"},
    "execution.plan": {"core", "execution.dispatch", "execution.executors.base", "execution.leaves", "execution.step"},
    "execution.explanation": {"core", "execution.dispatch", "execution.leaves", "execution.plan", "execution.step"},
    "execution": {"core"},
    "update": {"core", "execution", "ops"},
    "typing": {"core", "execution"},
    "projections": {"core"},
    "surgery": {"core"},
    "combinators": {"core", "execution", "ops"},
    "rules": {"core", "execution", "ops"},
    "transforms": {"combinators", "core", "execution", "ops", "rules", "schedules", "surgery"},
    "describe": {"core", "execution"},
    "optim.adapter": {"combinators", "core", "execution", "ops"},
    "optim.lr_scheduler": {"core", "schedules"},
    "optim.swa_utils": {"core", "ops", "optim.lr_scheduler", "schedules", "transforms"},
    "optim.optimizer": {"core", "execution", "optim.adapter"},
    "optim.transform_optimizer": {"combinators", "core", "execution", "optim.adapter", "optim.optimizer"},
    "optim.classes": {
        *("combinators", "core", "ops", "rules", "transforms"),
        *("optim.adapter", "optim.optimizer", "optim.transform_optimizer"),
    },
    "optim": {"combinators", "core", "execution"},
}


def module(path):
    """The name of a file's module within the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module(path) for path in FILES}


def room(name):
    """The room in which a module stands: the innermost."""
    return max((room for room in ROOMS if is_in(name, room)), key=len)


def is_in(name, room):
    return name == room or name.startswith(f"{room}.")


def imported(path):
    """The modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optimfx":
            names = [f"{node.module}.{alias.name}".removeprefix("optimfx.") for alias in node.names]
            found |= {name if name in MODULES else name.rpartition(".")[0] for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("optimfx.")}
    return found


@pytest.mark.parametrize("path", [p for p in FILES if module(p)], ids=module)
def test_imports_go_one_way(path):
    mine = room(module(path))
    for name in imported(path):
        allowed = is_in(name, mine) or any(is_in(name, other) for other in ROOMS[mine])
        assert allowed, f"{mine} may not import {name}"


def test_the_rooms_stand_in_order():
    """A room imports only rooms above it: so no two import each other."""
    above = set()
    for each, others in ROOMS.items():
        inside = {other for other in ROOMS if other.startswith(f"{each}.")}
        assert {other for other in others if other not in above} == set(), each
        assert inside <= above, each
        above.add(each)


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
def test_no_file_is_longer_than_its_limit(path):
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
    if "Args:" in doc:
        described = re.findall(r"^    ([\w*, ]+):", doc, re.MULTILINE)
        missing = set(inspect.signature(factory).parameters) - {x.strip("* ") for y in described for x in y.split(",")}
        assert not missing, f"{factory.__name__} does not say what {missing} is"


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_an_algorithm_says_where_it_comes_from(path):
    doc = inspect.getdoc(getattr(fx, path.stem))
    for part_of_doc in (".. math::", "Args:", "Returns:", "Raises:", "References:", ">>>"):
        assert part_of_doc in doc


def test_every_algorithm_and_link_is_in_the_catalogue():
    from catalogue import ALGORITHMS, LINKS
    from chains import CHAINS

    # test_combine.py, test_guards.py, test_multi_steps.py, test_parity_optax.py, test_schedule_free.py,
    # test_lookahead.py, test_freeze.py, test_chains.py, test_matrices.py
    elsewhere = {"apply_if_finite", "chain", "named_chain", "masked", "multi_steps", "partition", "stateless"}
    elsewhere |= {
        "schedule_free",
        "schedule_free_sgd",
        "schedule_free_adamw",
        "lookahead",
        "freeze",
        "selective_transform",
        "as_matrices",
        "cautious",
        "conditionally_transform",
        "conditionally_mask",
        "sam",
        "mechanize",
        "sophia",
        "scale_by_sophia",
        "hutchinson_estimator_diag_hessian",
        "snapshot",
        "measure_with_ema",
        "sm3",
        "polyak_sgd",
        "add_noise",
        "noisy_sgd",
        "differentially_private_aggregate",
        "dpsgd",
        "normalize",
        "flatten",
        "scale_by_lbfgs",
        "galore",
        "scale_by_galore",
        "scale_by_apollo",
        "scale_by_backtracking_linesearch",
        "scale_by_zoom_linesearch",
        *CHAINS,
    }
    returns = {
        name for name in FACTORIES if inspect.signature(getattr(fx, name)).return_annotation == "GradientTransformation"
    } - {"transformation"}
    assert {row.name for row in ALGORITHMS + LINKS} | elsewhere == returns
