"""Segments: where windows start, and that each equals the step-by-step recipe."""

from dataclasses import replace

import numpy as np
import pytest

from examples.ser.data.feature_cache import load_frames
from examples.ser.data.mfcc import add_deltas
from examples.ser.data.ravdess import load_ravdess
from examples.ser.data.segments import make_segments, segment_starts
from examples.ser.data.splits import split
from examples.ser.data.standardize import Standardizer
from tests.examples.ser.clips import RAVDESS, needs_ravdess


def test_windows_start_until_one_reaches_the_end():
    assert segment_starts(198, 1.0).tolist() == [0]
    assert segment_starts(50, 0.4, "drop").tolist() == [0]
    assert segment_starts(199, 1.0).tolist() == [0, 100]
    assert segment_starts(199, 1.0, "drop").tolist() == [0]
    assert (
        segment_starts(298, 1.0).tolist() == segment_starts(298, 1.0, "drop").tolist() == [0, 100]
    )
    assert segment_starts(368, 0.4).tolist() == [0, 40, 80, 120, 160, 200]
    assert segment_starts(368, 0.4, "drop").tolist() == [0, 40, 80, 120, 160]
    for arguments, message in (
        ((100, 3.0), r"expected a stride of 0\.01 to 1\.98 s, got 3\.0 s"),
        ((100, 1.0, "crop"), "expected tail 'pad' or 'drop', got 'crop'"),
        ((0, 1.0), "expected 1 frame or more, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            segment_starts(*arguments)


@pytest.mark.parametrize("mode", Standardizer.MODES)
def test_segments_equal_the_one_by_one_recipe(corpus, frames, mode):
    train = [u for u in corpus.utterances if u.fold != 1]
    standardizer = Standardizer(mode).fit(train, frames)
    result = make_segments(
        corpus, train, frames, standardizer, stride_s=0.4, tail="pad", held_out=False
    )
    assert result.x.shape == (len(result), 1, 39, 200)
    mean, std = standardizer.statistics(train, frames, corpus.utterances)
    row = 0
    for n, u in enumerate(train):
        for start in segment_starts(frames[u.id].shape[1], 0.4):
            window = frames[u.id][:, start : start + 198]
            expected = (add_deltas(window) - mean[n][:, None]) / std[n][:, None]
            valid = window.shape[1]
            np.testing.assert_allclose(result.x[row, 0, :, :valid].numpy(), expected, atol=1e-4)
            assert (result.x[row, 0, :, valid:] == 0).all()
            assert result.valid[row] == valid
            assert corpus.utterances[result.utterance[row]] == u
            assert corpus.labels[result.y[row]] == u.label
            assert corpus.speakers[result.speaker[row]] == u.speaker
            row += 1
    assert row == len(result)


@needs_ravdess
def test_real_clips_give_finite_standardised_segments(tmp_path):
    corpus = load_ravdess(RAVDESS)
    few = tuple(u for u in corpus.utterances if u.id[9:17] == "01-02-02" and u.fold in {0, 1})
    corpus, frames = load_frames(replace(corpus, utterances=few), tmp_path, progress=False)
    sides = split(corpus, 0)
    standardizer = Standardizer().fit(sides.train, frames)
    train = make_segments(corpus, sides.train, frames, standardizer, stride_s=1.0, held_out=False)
    assert len(few) == 64
    assert abs(train.x.mean()) < 0.1
    assert 0.8 < train.x.std() < 1.2
    assert train.valid.min() >= 98
