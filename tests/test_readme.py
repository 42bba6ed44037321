"""The code of the README, as a reader would paste it: block after block in one session."""

import re
from pathlib import Path

import pytest

import optimfx as fx

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_every_block_runs(fresh_compiler, capsys):
    session = {"__name__": "readme"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), session)
    assert len(BLOCKS) >= 8
    assert "executor" in capsys.readouterr().out
    assert session["loss"](session["params"]).isfinite()


@pytest.mark.parametrize("name", [*fx.__all__, *fx.schedules.__all__])
def test_every_public_name_is_on_the_page(name):
    types = {"GradientTransformation", "EmptyState", "StepState", "global_norm"}
    assert name in types or re.search(rf"\b{name}\b", README)
