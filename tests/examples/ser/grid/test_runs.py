"""Runs of the grid: complete seeds, common seeds, commits, and what is read of a folder."""

import gzip
import json
from dataclasses import replace

import numpy as np

from examples.ser.grid.cells import Cell
from examples.ser.grid.runs import Runs, on_common_seeds, read_grid

CELL = Cell("ravdess", "speaker", "none", 0, 1, "strong", 30, "32-true")


def records(seed, folds=range(6), commit="0"):
    """One clip a fold, of a woman in even folds."""
    clip = {"label": "b", "last": [0.25, 0.75]}
    return [
        {
            "labels": ["a", "b"],
            "run": {"fold": fold, "seed": seed, "commit": commit},
            "rows": [{"selection": "last", "WA": fold}, {"selection": "other", "WA": -1}],
            "utterances": [clip | {"id": f"{fold}", "gender": ("female", "male")[fold % 2]}],
        }
        for fold in folds
    ]


def runs(*parts):
    return Runs(CELL, tuple(record for part in parts for record in part))


def test_a_seed_counts_when_it_has_every_fold():
    made = runs(records(1), records(2, range(5)))
    assert set(made.seeds) == {1}
    assert made.complete
    assert not runs(records(2, range(5))).complete
    assert [r["run"]["seed"] for r in made.select_seeds(made.seeds).records] == [1] * 6


def test_a_corpus_of_any_name_is_complete_with_the_folds_of_its_records():
    cell = replace(CELL, corpus="emo_db")
    whole = [record | {"folds": [0, 1]} for record in records(1, range(2))]
    assert Runs(cell, tuple(whole)).complete
    assert not Runs(cell, tuple(whole[:1])).complete


def test_two_systems_have_the_seeds_that_are_complete_in_both():
    ours = runs(records(1), records(2), records(3, range(5)))
    base = runs(records(2), records(3), records(4))
    sides = on_common_seeds(ours, base)
    assert [{r["run"]["seed"] for r in side.records} for side in sides] == [{2}, {2}]
    assert [len(side.records) for side in sides] == [6, 6]
    assert on_common_seeds(runs(records(1)), runs(records(2))) is None


def test_predictions_are_pooled_and_selected():
    posterior, y = runs(records(1)).pooled()
    np.testing.assert_array_equal(posterior, [[0.25, 0.75]] * 6)
    assert y.tolist() == [1] * 6
    assert len(runs(records(1)).pooled(gender="female")[1]) == 3
    assert [row["WA"] for row in runs(records(1)).by_fold()] == [*range(6)]
    assert runs(records(1)).has_condition("last")
    assert not runs(records(1)).has_condition("awgn10")


def test_commits_are_short_and_named_once_with_their_changes():
    commits = ("a" * 40, "a" * 40 + "-dirty", "b" * 40 + " " + "c" * 40)
    made = runs(*(records(1, [fold], commit) for fold, commit in enumerate(commits)))
    assert made.facts()["commit"] == "aaaaaaaaa aaaaaaaaa-dirty bbbbbbbbb ccccccccc"


def write(folder, seed, folds):
    for record in records(seed, folds):
        name = f"ravdess-speaker-none-strong30-32-true-seed{seed}-fold{record['run']['fold']}"
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(record).encode()))


def test_a_seed_that_lacks_a_fold_is_left_out_where_another_is_complete(tmp_path):
    write(tmp_path, 1, range(6))
    write(tmp_path, 2, range(2))
    (made,) = read_grid(tmp_path).values()
    assert (made.facts()["folds"], made.facts()["seeds"]) == (6, 1)
    for path in sorted(tmp_path.glob("*seed1*"))[3:]:
        path.unlink()
    (made,) = read_grid(tmp_path).values()  # none is complete: all that there is
    assert (made.facts()["folds"], made.facts()["seeds"]) == (3, 2)
