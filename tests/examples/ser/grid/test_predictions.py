"""Predictions: joined from records, selected, aligned, and refused where they do not fit."""

import numpy as np
import pytest

from examples.ser.grid.predictions import Predictions, align, join_runs

CLIPS = [
    {"id": f"c{i}", "label": "b", "speaker": f"s{i}", "gender": g, "last": [0.4, 0.6]}
    for i, g in enumerate(("female", "male"))
]
RUNS = [
    {"labels": ["a", "b"], "run": {"fold": i, "seed": 7}, "utterances": [clip]}
    for i, clip in enumerate(CLIPS)
]


def test_runs_are_joined_and_their_clips_selected():
    joined = join_runs(RUNS)
    assert (joined.id.tolist(), joined.fold.tolist()) == (["c0", "c1"], [0, 1])
    assert joined.label.tolist() == joined.predicted.tolist() == [1, 1]
    assert join_runs(RUNS, gender="male").id.tolist() == ["c1"]


def test_posteriors_count_by_their_argmax():
    columns = vars(join_runs(RUNS)) | {"predicted": [[0.4, 0.6], [0.9, 0.1]]}
    assert Predictions(**columns).predicted.tolist() == [1, 0]


def test_two_systems_are_put_into_one_order():
    a = join_runs(RUNS)
    b = Predictions(**{name: column[::-1] for name, column in vars(a).items()})
    for side in align(b, a):
        assert side.id.tolist() == ["c0", "c1"]
        np.testing.assert_array_equal(side.fold, [0, 1])


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(ValueError, match=r"once per seed, got \(seed, id\) \[\(7, 'c0'\)\] more"):
        join_runs([RUNS[0], RUNS[0]])
    with pytest.raises(ValueError, match=r"with labels \['a', 'b'\], got \['b', 'a'\]"):
        join_runs([RUNS[0], RUNS[1] | {"labels": ["b", "a"]}])
    columns = vars(join_runs(RUNS)) | {"fold": [0]}
    with pytest.raises(ValueError, match=r"columns of equal length, .* got .*'fold': \(1,\)"):
        Predictions(**columns)
