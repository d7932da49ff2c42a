"""Tables 6 to 12: the accuracy of each variant, a mean over folds, with the paper's beside it."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from examples.provenance import Row
from examples.ser.grid.cells import TABLES
from examples.ser.grid.paper import with_paper
from examples.ser.grid.runs import Grid

TABLES_OF_ACCURACY = ("6", "7", "8", "9", "10", "11", "12")
LAYERS = {"iemocap": "11", "ravdess": "12"}  # one table for each corpus


def averages(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, float]:
    """WA and UA with their sample SD over the runs, and F1 by class."""
    out: dict[str, float] = {}
    for measure in ("WA", "UA"):
        values = [row[measure] for row in rows]
        out[measure] = mean(values)
        out[f"{measure} SD"] = stdev(values) if len(values) > 1 else math.nan
    return out | {f"F1 {label}": mean(row[f"F1_{label}"] for row in rows) for label in labels}


def accuracy(table: str, grid: Grid) -> list[Row]:
    """Tables 6 to 12: a row per variant, with mean and SD over folds."""
    variants, (protocol,) = TABLES[table]
    corpora = [corpus for corpus, number in LAYERS.items() if number == table] or list(LAYERS)
    return [
        {"corpus": key[0], "variant": key[3]}
        | with_paper(table, key[0], key[3], averages(runs.by_fold(), runs.labels)) | runs.facts()
        for variant in variants
        for key, runs in grid.items()
        if runs.cell.base_corpus in corpora and key[1] == protocol and key[3] == variant
    ]  # fmt: skip
