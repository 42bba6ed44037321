"""The Python of a Markdown page, run as a reader would paste it: block after block in one session."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(path):
    """Runs a page's blocks and returns the names that they leave behind."""
    session = {"__name__": path.stem}
    for block in blocks(path.read_text()):
        exec(compile(block, str(path.relative_to(ROOT)), "exec"), session)
    return session
