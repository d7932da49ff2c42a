"""The paper's numbers: each once, shown with ours, and Table 21."""

import math

from examples.provenance import read_csv
from examples.ser.grid import paper


def test_the_papers_numbers_are_each_there_once():
    rows = read_csv(paper.PAPER)
    assert len(paper.read_paper()) == len(rows)
    assert {row["table"] for row in rows} >= {"5", "8", "12", "13", "15", "17", "19", "21"}


def test_ours_come_first_and_name_the_corpus_of_the_papers():
    shown = paper.with_paper("8", "ravdess", "none", {"WA": 42.125, "WA SD": math.nan})
    assert shown == {"WA": "42.12", "WA (paper)": "80.24", "WA SD": ""}
    other = paper.with_paper("10", "ravdess", "icasa+aam", {"WA": 1.0}, digits=1)
    assert other == {"WA": "1.0", "WA (paper on iemocap)": "81.54"}
    assert paper.with_paper("", "ravdess", "none", {"WA": 1.0}) == {"WA": "1.00"}


def test_table_21_has_a_row_per_published_model():
    rows = paper.literature()
    assert len({(row["corpus"], row["model"]) for row in rows}) == len(rows) > 10
    assert all({"WA", "UA"} & row.keys() for row in rows)
