"""Every committed plot is drawn from committed rows."""

import shutil

from benchmarks import redraw
from benchmarks.harness import RESULTS


def test_all_plots_are_drawn_from_their_rows(tmp_path):
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, tmp_path)
    redraw.main(["--results", str(tmp_path)])
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {path.name for path in RESULTS.glob("*.png")}


def test_a_cell_is_read_as_the_number_that_it_was():
    assert [redraw.number(cell) for cell in ("32", "0.5", "grid's loop", "")] == [
        32, 0.5, "grid's loop", "",
    ]  # fmt: skip
