"""The tables say what the predictions of the grid hold, and nothing where there are none."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from examples.ser import tables
from examples.ser.corpora import RAVDESS_LABELS, ravdess_rows
from examples.ser.evaluate import scores
from examples.ser.reproduce import Cell

VARIANTS = {"none": 0.3, "icasa+aam": 0.6, "none+aam": 0.4}  # share of right answers


def record(fold, right, rng):
    clips, y = [], []
    for row in ravdess_rows():
        if int(row["fold"]) == fold:
            label = RAVDESS_LABELS.index(row["label"])
            said = label if rng.random() < right else rng.integers(8)
            posterior = np.full(8, 0.05)
            posterior[said] += 0.6
            clip = {key: row[key] for key in ("id", "label", "speaker", "gender")}
            for name in ("last", tables.ORACLE, "clean", "awgn10"):
                clip[name] = np.roll(posterior, name == "awgn10").tolist()
            clips.append(clip)
            y.append(label)
    result = scores(np.array([c["last"] for c in clips]), np.array(y), RAVDESS_LABELS)
    rows = [result | {"selection": name} for name in ("last", tables.ORACLE)]
    run = {"fold": fold, "seed": 1, "commit": "0123456789"}
    return {"labels": RAVDESS_LABELS, "run": run, "rows": rows, "utterances": clips}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    out = tmp_path_factory.mktemp("grid")
    for variant, right in VARIANTS.items():
        for protocol in ("speaker", "leaky-utterance"):
            for fold in range(6):
                cell = Cell("ravdess", protocol, variant, fold, 1, "onecycle", 10, "32-true")
                text = json.dumps(record(fold, right, rng))
                (out / f"{cell.name}.json.gz").write_bytes(gzip.compress(text.encode()))
    return out


@pytest.fixture(scope="module")
def grid(folder):
    return tables.read_grid(folder)


def test_accuracies_are_means_over_folds_with_the_papers_beside_them(grid):
    rows = {row["variant"]: row for row in tables.accuracy("8", grid)}
    assert set(rows) == {"none", "none+aam"}  # what was not run has no row
    runs = grid["ravdess", "speaker", "onecycle10-32-true", "none"]
    posterior, y = runs.pooled()
    assert len(y) == 1440
    assert float(rows["none"]["WA"]) == pytest.approx(
        100 * accuracy_score(y, posterior.argmax(1)), abs=0.006
    )
    assert float(rows["none"]["UA"]) == pytest.approx(
        100 * balanced_accuracy_score(y, posterior.argmax(1)), abs=0.006
    )
    assert rows["none"]["WA (paper)"] == "80.24"
    assert (rows["none"]["folds"], rows["none"]["epochs"]) == (6, 10)


def test_a_number_of_the_other_corpus_says_so(grid):
    (row,) = (r for r in tables.accuracy("10", grid) if r["variant"] == "icasa+aam")
    assert row["WA (paper on iemocap)"] == "81.54"
    assert "WA (paper)" not in row


def test_every_table_of_the_pooled_predictions(grid):
    macro = [r for r in tables.table13(grid) if r["class"] == "macro average"]
    assert [r["variant"] for r in macro] == ["none", "icasa+aam"]
    assert macro[1]["recall (paper)"] == "0.839"
    assert 0 < float(macro[0]["precision"]) < float(macro[1]["precision"]) < 1
    assert "recall (paper)" not in macro[0]  # the paper's Table 13 is of the full model alone
    none, ours = tables.table14(grid)
    assert float(none["ECE"]) > float(ours["ECE"]) > 0
    conditions = tables.robustness("15", grid)
    assert [r["condition"] for r in conditions] == ["clean", "awgn10"] * 2
    assert float(conditions[3]["WA"]) < float(conditions[2]["WA"])  # rolled by one class
    genders = tables.gender("17", grid)
    assert [r["gender"] for r in genders] == ["male", "female"] * 2
    assert len(tables.gender("18", grid)) == 2 * 2 * 8


def test_the_gain_is_tested_against_the_baseline_of_the_same_budget(grid):
    short = {k: v for k, v in grid.items() if k[1] == "speaker"}
    # The longer budget's baseline is as good as the shorter one's full model: it gains nothing.
    names = {"none": "icasa+aam", "icasa+aam": "icasa+aam"}
    long = {}
    for variant, right in names.items():
        runs = short["ravdess", "speaker", "onecycle10-32-true", right]
        cell = replace(runs.cell, variant=variant, epochs=20)
        long["ravdess", "speaker", cell.budget, variant] = replace(runs, cell=cell)
    rows = tables.table19(short | long)
    assert [(r["ours"], r["epochs"], r["metric"]) for r in rows] == [
        ("icasa+aam", 10, "WA"), ("icasa+aam", 10, "UA"),
        ("icasa+aam", 20, "WA"), ("icasa+aam", 20, "UA"),
        ("none+aam", 10, "WA"), ("none+aam", 10, "UA"),
    ]  # fmt: skip
    assert float(rows[0]["low"]) > 15
    assert float(rows[0]["permutation_p_holm"]) < 0.01
    assert float(rows[2]["difference"]) == 0


def test_the_protocol_table_names_every_leak(grid, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    leaks = [row["leak"] for row in tables.protocol(grid)]
    assert leaks.count("none") == 2
    assert set(leaks) == {"none", "leaky-epoch", "leaky-utterance", "leaky-utterance + leaky-epoch"}


def test_the_papers_numbers_are_each_there_once():
    rows = tables.read(tables.PAPER)
    assert len(tables.read_paper()) == len(rows)
    assert {row["table"] for row in rows} >= {"5", "8", "12", "13", "15", "17", "19", "21"}
