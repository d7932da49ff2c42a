"""The numbers that the paper prints, table by table, to compare with ours."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from examples.provenance import Row, read_csv

PAPER = Path(__file__).parent / "paper.csv"  # Li et al. 2026


@cache
def read_paper() -> dict[tuple[str, ...], str]:
    """Return the paper's value by (table, corpus, row, column)."""
    keys = ("table", "corpus", "row", "column")
    return {tuple(row[key] for key in keys): row["value"] for row in read_csv(PAPER)}


def with_paper(
    table: str, corpus: str, row: str, values: Mapping[str, float], digits: int = 2
) -> Row:
    """Return our values as text, each followed by the paper's where it has one."""
    paper = read_paper()
    out: Row = {}
    for column, value in values.items():
        out[column] = "" if np.isnan(value) else f"{value:.{digits}f}"
        theirs = [c for c in (corpus, "iemocap") if (table, c, row, column) in paper]
        if theirs:
            source = "paper" if theirs[0] == corpus else "paper on iemocap"
            out[f"{column} ({source})"] = paper[table, theirs[0], row, column]
    return out


def literature() -> list[Row]:
    """Return Table 21: other works' numbers as the paper cites them."""
    rows: dict[tuple[str, str], Row] = {}
    for (table, corpus, row, column), value in read_paper().items():
        if table == "21":
            rows.setdefault((corpus, row), {"corpus": corpus, "model": row})[column] = value
    return list(rows.values())
