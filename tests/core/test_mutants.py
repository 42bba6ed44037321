"""The list of small bugs that tests must see stays one of lines that are there; helpers/mutants.py tries them."""

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_each_bug_has_its_line(file):
    text = (ROOT / "optimfx" / file).read_text()
    assert [mutant.old for mutant in MUTANTS if mutant.file == file and mutant.old not in text] == []
