"""The notebooks run, and were committed with the outputs of their code."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def printed(notebook):
    """What each code cell prints, but for its numbers, which other machines compute otherwise."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [output.text for output in cell.outputs if output.get("name") == "stdout"]
            yield re.sub(r"[-\d.]+", "0", " ".join("".join(outputs).split()))


def pictures(notebook):
    """How many pictures each code cell shows."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield sum("image/png" in output.get("data", ()) for output in cell.outputs)


@pytest.mark.filterwarnings("default")  # of the kernel and its event loop
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_what_was_committed(path):
    committed, ran = (nbformat.read(path, as_version=4) for _ in range(2))
    where = {"metadata": {"path": ROOT}}  # examples/ is imported from here
    nbclient.NotebookClient(ran, timeout=120, resources=where).execute()
    assert list(printed(ran)) == list(printed(committed))
    assert list(pictures(ran)) == list(pictures(committed))
    assert sum(pictures(committed)) > 0
    assert path.stat().st_size < 400_000
