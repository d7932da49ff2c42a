"""The prose runs: every Python block of the README and the pages, each page in one namespace."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCKS = {p: re.findall(r"^```python\n(.*?)^```$", p.read_text(), re.M | re.S) for p in PAGES}


@pytest.mark.parametrize(
    "page", [p for p, blocks in BLOCKS.items() if blocks], ids=lambda p: str(p.relative_to(ROOT))
)
def test_python_blocks_run(page, capsys):
    namespace = {}
    for block in BLOCKS[page]:
        exec(compile(block, page.name, "exec"), namespace)


def test_the_readme_shows_the_layers_and_aam():
    assert len(BLOCKS[ROOT / "README.md"]) >= 3
