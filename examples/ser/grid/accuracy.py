"""Tables 6 to 12: the accuracy of each variant, a mean over folds, with the paper's beside it."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from examples.provenance import Row
from examples.ser.grid.cells import STUDY, TABLES
from examples.ser.grid.paper import with_paper
from examples.ser.grid.runs import Grid, Runs

TABLES_OF_ACCURACY = ("6", "7", "8", "9", "10", "11", "12")
LAYERS = {"iemocap": "11", "ravdess": "12"}  # one table for each corpus
IN_STUDY = {  # table -> the sets of the study that have its variants
    "8": ("augmentation",),
    "9": ("augmentation",),
    "10": ("layers", "layers-2d"),
    "12": ("layers", "layers-2d"),
}


def averages(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, float]:
    """WA and UA with their sample SD over the runs, and F1 by class."""
    out: dict[str, float] = {}
    for measure in ("WA", "UA"):
        values = [row[measure] for row in rows]
        out[measure] = mean(values)
        out[f"{measure} SD"] = stdev(values) if len(values) > 1 else math.nan
    return out | {f"F1 {label}": mean(row[f"F1_{label}"] for row in rows) for label in labels}


def accuracy_row(table: str, runs: Runs) -> Row:
    """Return a variant's row, with mean and SD over its runs."""
    corpus, variant = runs.cell.corpus, runs.cell.variant
    values = averages(runs.by_fold(), runs.labels)
    shown = with_paper(table, corpus, variant, values)
    return {"corpus": corpus, "variant": variant} | shown | runs.facts()


def accuracy(table: str, grid: Grid) -> list[Row]:
    """Tables 6 to 12: a row per variant of the paper's network."""
    variants, (protocol,) = TABLES[table]
    corpora = [corpus for corpus, number in LAYERS.items() if number == table] or list(LAYERS)
    return [
        accuracy_row(table, runs)
        for variant in variants
        for key, runs in grid.items()
        if runs.cell.base_corpus in corpora and key[1] == protocol and key[3] == variant
    ]


def accuracy_in_study(table: str, grid: Grid) -> list[Row]:
    """Tables 8, 9, 10 and 12: a row per variant of the study's networks, whose layers lack AAM.

    A set of the study has no row before all of its cells are there.
    """
    rows = []
    for name in IN_STUDY.get(table, ()):
        preset, seeds = STUDY[name]
        found = {
            key[3]: runs.select_seeds(seeds)
            for key, runs in grid.items()
            if runs.cell.preset == preset and runs.seeds.keys() >= set(seeds)
        }
        if found.keys() >= set(TABLES[name][0]):
            variants = TABLES[table][0]
            if name != "augmentation":
                variants = tuple(variant.removesuffix("+aam") for variant in variants)
            rows += [accuracy_row(table, found[v]) for v in variants if v in TABLES[name][0]]
    return rows
