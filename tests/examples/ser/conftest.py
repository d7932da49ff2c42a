"""A small grid of trained cells, which the commands on the grid share."""

import pytest

from examples.ser import train
from examples.ser.grid.cells import OURS, Cell, write_cell
from examples.ser.synthetic import write_synthetic


@pytest.fixture(scope="session")
def small_grid(tmp_path_factory):
    """Train both models for one epoch on one fold of a synthetic corpus; return folder and flags.

    Tests that change its cells must copy them.
    """
    root = tmp_path_factory.mktemp("grid")
    source = ["--manifest", str(write_synthetic(root / "corpus", per_class=3)), "--quiet"]
    source += ["--cache", str(root / "cache")]
    (root / "grid").mkdir()
    for variant in OURS:
        cell = Cell("synthetic", "speaker", variant, 0, 1, "onecycle", 1, "32-true")
        out = root / "runs" / cell.name
        run = ["--out", str(out), "--threads", "1", "--device", "cpu", "--batch-size", "8"]
        train.main([*cell.flags(), *source, *run])
        write_cell((out / "predictions.json").read_bytes(), root / "grid" / f"{cell.name}.json.gz")
    return root, source
