"""The tables say what the predictions of the grid hold, and nothing where there are none."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from examples.ser import tables
from examples.ser.data.ravdess import RAVDESS_LABELS, ravdess_rows
from examples.ser.grid.cells import TABLES, Cell
from examples.ser.run.evaluate import scores

GAINS = (("icasa+aam", "none"), ("none+aam", "none"), ("icasa+aam", "none+aam"))
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
    scored = {"degraded": {"commit": "abcdefabcdef"}}
    return {"labels": RAVDESS_LABELS, "run": run, "rows": rows, "utterances": clips} | scored


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
    classes = tables.table13(grid)
    macro, micro = (
        [r for r in classes if r["class"] == f"{m} average"] for m in ("macro", "micro")
    )
    posterior, y = grid["ravdess", "speaker", "onecycle10-32-true", "icasa+aam"].pooled()
    assert float(micro[1]["F1"]) == pytest.approx((posterior.argmax(1) == y).mean(), abs=6e-4)
    assert micro[1]["F1 (paper)"] == "0.869"
    assert [r["variant"] for r in macro] == ["none", "icasa+aam"]
    assert macro[1]["recall (paper)"] == "0.839"
    assert 0 < float(macro[0]["precision"]) < float(macro[1]["precision"]) < 1
    assert "recall (paper)" not in macro[0]  # the paper's Table 13 is of the full model alone
    none, ours = tables.table14(grid)
    assert float(none["ECE"]) > float(ours["ECE"]) > 0
    low, high = map(float, none["ECE if calibrated"].split(" to "))
    assert 0 < low < high < float(none["ECE"])
    conditions = tables.robustness("15", grid)
    assert [r["condition"] for r in conditions] == ["clean", "awgn10"] * 2
    assert float(conditions[3]["WA"]) < float(conditions[2]["WA"])  # rolled by one class
    for base, row in zip(conditions[:2], conditions[2:], strict=True):
        assert "WA gained" not in base
        gained = float(row["WA"]) - float(base["WA"])
        assert float(row["WA gained"]) == pytest.approx(gained, abs=0.011)
        assert float(row["low"]) < gained < float(row["high"])
    assert {row["commit of the scores"] for row in conditions} == {"abcdefabc"}
    assert len(tables.table18(grid)) == 2 * 2 * 8


def test_the_gap_between_genders_is_their_difference_with_its_interval(grid):
    rows = tables.gender(grid)
    assert [r["gender"] for r in rows] == ["female", "male", "female - male"] * 2
    for female, male, gap in (rows[:3], rows[3:]):
        for measure in ("WA", "UA"):
            difference = float(female[measure]) - float(male[measure])
            assert float(gap[measure]) == pytest.approx(difference, abs=0.011)
            assert float(gap[f"{measure} low"]) < difference < float(gap[f"{measure} high"])
    assert rows[5]["WA (paper)"] == "1.72"


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
    assert sorted((r["ours"], r["against"], r["epochs"], r["metric"]) for r in rows) == sorted(
        (ours, base, epochs, metric)
        for epochs in (10, 20) for metric in ("WA", "UA")
        for ours, base in GAINS[: 3 if epochs == 10 else 1]
    )  # fmt: skip
    by = {(r["ours"], r["against"], r["epochs"], r["metric"]): r for r in rows}
    full = by["icasa+aam", "none", 10, "WA"]
    assert float(full["low"]) > 15
    assert float(full["permutation_p_holm"]) < 0.01
    whole_family = 4  # three differences at one budget, one at the other
    assert float(full["permutation_p_holm"]) == pytest.approx(
        whole_family * float(full["permutation_p"])
    )
    assert (full["difference (paper)"], full["t (paper)"]) == ("4.36", "56.64")
    assert "t (paper)" not in by["none+aam", "none", 10, "WA"]
    assert float(by["icasa+aam", "none", 20, "WA"]["difference"]) == 0


def test_a_name_says_what_the_grid_has_several_of(grid):
    runs = grid["ravdess", "speaker", "onecycle10-32-true", "none"]
    changes = ({}, {"epochs": 20}, {"epochs": 20, "preset": "paper"}, {"corpus": "iemocap"})
    names = []
    for change in changes:
        other = replace(runs, cell=replace(runs.cell, variant="icasa", **change))
        names.append(tables.run_name(runs, {("a",): runs, ("b",): other}))
    assert names == ["none", "none, 10 epochs", "none, onecycle10-32-true", "none, ravdess"]


def test_other_layers_have_a_table_for_each_corpus(grid):
    assert tables.accuracy("11", grid) == []
    assert {row["variant"] for row in tables.accuracy("12", grid)} == {"icasa+aam", "none+aam"}
    cells = {key: runs for key, runs in grid.items() if key[1] == "speaker"}
    other = {
        ("iemocap", *key[1:]): replace(runs, cell=replace(runs.cell, corpus="iemocap"))
        for key, runs in cells.items()
    }
    (row,) = (r for r in tables.accuracy("11", grid | other) if r["variant"] == "icasa+aam")
    assert (row["corpus"], row["WA (paper)"]) == ("iemocap", "81.54")
    assert {row["corpus"] for row in tables.accuracy("12", grid | other)} == {"ravdess"}


@pytest.fixture
def study(grid):
    """The study's layers and augmentations, each with all of its seeds."""
    runs = grid["ravdess", "speaker", "onecycle10-32-true", "none"]

    def seeded(variant, seeds):
        records = [
            dict(record, run=record["run"] | {"seed": seed})
            for seed in seeds for record in runs.records
        ]  # fmt: skip
        cell = replace(runs.cell, preset="strong", epochs=30, variant=variant)
        return cell.group, replace(runs, cell=cell, records=tuple(records))

    cells = [seeded(variant, range(1, 4)) for variant in TABLES["augmentation"][0]]
    return dict(cells + [seeded(variant, range(1, 6)) for variant in TABLES["layers"][0]])


def test_the_studys_layers_have_rows_without_aam_and_without_the_papers_numbers(study):
    rows = tables.accuracy_in_study("12", study)
    assert [row["variant"] for row in rows] == ["none", "eca", "cbam", "se", "ca", "icasa"]
    assert {(row["preset"], row["seeds"], row["folds"]) for row in rows} == {("strong", 5, 6)}
    assert not any("(paper" in key for row in rows for key in row)
    assert [row["variant"] for row in tables.accuracy_in_study("10", study)] == [
        "none", "sa", "ica", "icasa"]  # fmt: skip


def test_the_studys_augmentations_have_rows_over_their_own_seeds(study):
    rows = tables.accuracy_in_study("8", study)
    assert [row["variant"] for row in rows] == list(TABLES["8"][0])
    assert {row["seeds"] for row in rows} == {3}  # "none" has five, for the layers
    assert [row["variant"] for row in tables.accuracy_in_study("9", study)] == [
        variant for variant in TABLES["9"][0] if variant != "none+aam+crop"]  # fmt: skip
    assert tables.accuracy_in_study("6", study) == []


@pytest.mark.parametrize("lacking", ["cell", "seed"])
def test_a_set_of_the_study_that_lacks_a_cell_has_no_row(study, lacking):
    key = next(key for key in study if key[3] == "se")
    short = study[key].records[:-1] if lacking == "cell" else study[key].records[:-6]
    study[key] = replace(study[key], records=short)
    assert tables.accuracy_in_study("12", study) == []
    assert tables.accuracy_in_study("8", study)


def test_the_protocol_table_names_every_leak(grid, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    leaks = [row["leak"] for row in tables.protocol(grid)]
    assert leaks.count("none") == 2
    assert set(leaks) == {"none", "leaky-epoch", "leaky-utterance", "leaky-utterance + leaky-epoch"}
