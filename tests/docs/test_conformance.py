"""The checked-in matrix is that of the catalogue; what is in its cells is compared at the end of a whole run."""

import pytest
from catalogue import ALGORITHMS
from conformance import COLUMNS, PAGE, differences, page

TEXT = PAGE.read_text()
TABLE = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]


def test_rows_are_the_algorithms():
    assert [name.partition(" ")[0] for name, *_ in TABLE] == [f"`{row.name}`" for row in ALGORITHMS]


def test_columns_are_those_that_tests_fill():
    assert f"| | {' | '.join(COLUMNS)} |" in TEXT
    assert all(len(cells) == len(COLUMNS) for _, *cells in TABLE)


@pytest.mark.parametrize("row", ALGORITHMS, ids=lambda row: row.name)
def test_a_cell_is_a_figure_ok_or_a_reason(row):
    (cells,) = ([*rest] for name, *rest in TABLE if name.startswith(f"`{row.name}`"))
    closed = {column for column, cell in zip(COLUMNS, cells) if cell.startswith("no ")}
    assert closed == set(row.reasons)
    assert all(reason in TEXT for reason in row.reasons.values())
    empty = {column for column, cell in zip(COLUMNS, cells) if cell == "-"}
    assert empty <= {"torch", "Optax", "float64 error"}
    assert ("torch" in empty) == (row.torch_class is None)
    assert ("Optax" in empty) == all(row.twin(**options) is None for options in row.options)


RESULTS = {("adam", "torch"): [(True, (0.0, "")), (True, (2.0, ""))], ("adam", "vmap"): [(True, None)]}
ADAM = [row for row in ALGORITHMS if row.name == "adam"]


@pytest.mark.parametrize(
    "key, found, stale",
    [
        (("adam", "torch"), [(True, (1.0, ""))], False),
        (("adam", "torch"), [(True, (21.0, ""))], True),
        (("adam", "torch"), [(True, None)], True),
        (("adam", "vmap"), [(True, None), (False, None)], True),
        (("adam", "vmap"), [], True),
        (("adam", "jvp"), [(True, None)], True),
    ],
)
def test_a_page_is_stale_when_a_cell_says_something_else_or_worse(key, found, stale):
    before, after = page(RESULTS, ADAM), page({**RESULTS, key: found}, ADAM)
    assert bool(differences(before, after)) == stale
    assert differences(before, before) == []


def test_a_page_is_stale_when_a_row_is_missing():
    assert differences(page(RESULTS, ADAM), page(RESULTS, [*ADAM, ALGORITHMS[0]]))
