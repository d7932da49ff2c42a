"""Draw every plot anew from committed rows, without measuring: ``python -m benchmarks.redraw``."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import aam_step, cells, complexity, layers, mixup, rivals, training
from benchmarks.harness import RESULTS, Row
from examples.provenance import read_csv

PLOTS: dict[str, tuple[tuple[Callable[[Sequence[Row], Path], None], str], ...]] = {
    "aam_step.csv": ((aam_step.draw, "aam_step.png"),),
    "cells.csv": ((cells.draw, "cells.png"),),
    "complexity.csv": ((complexity.draw_table, "complexity.png"),),
    "complexity-layers.csv": ((complexity.draw_layers, ""),),  # several, into the folder
    "layers.csv": (
        (layers.draw_alone, "layers.png"),
        (layers.draw_sweeps, "layers-sweep.png"),
        (layers.draw_inside, "layers-inside.png"),
    ),
    "mixup.csv": ((mixup.draw, "mixup.png"),),
    "rivals.csv": ((rivals.draw, "rivals.png"),),
    "training.csv": ((training.draw, "training.png"),),
}


def number(cell: str) -> int | float | str:
    """Return a cell as the number that it was, or as it is."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def main(argv: Sequence[str] | None = None) -> None:
    """Read the rows of the folder and draw their plots beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    folder = parser.parse_args(argv).results
    for file, plots in PLOTS.items():
        rows = [{key: number(cell) for key, cell in row.items()} for row in read_csv(folder / file)]
        for draw, picture in plots:
            draw(rows, folder / picture)


if __name__ == "__main__":
    main()
