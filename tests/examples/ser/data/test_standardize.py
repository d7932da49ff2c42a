"""Standardisation: whose statistics, and the guard against those of held-out clips."""

import numpy as np
import pytest

from examples.ser.data.mfcc import add_deltas
from examples.ser.data.segments import make_segments
from examples.ser.data.splits import split
from examples.ser.data.standardize import Standardizer


def test_train_statistics_are_those_of_the_training_frames_alone(corpus, frames):
    train = corpus.utterances[:3]
    standardizer = Standardizer().fit(train, frames)
    values = np.concatenate([add_deltas(frames[u.id]) for u in train], axis=1)
    np.testing.assert_allclose(standardizer.mean, values.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(standardizer.std, values.std(axis=1), rtol=1e-3)
    own, _ = Standardizer("utterance").statistics(corpus.utterances[5:6], frames, corpus.utterances)
    np.testing.assert_allclose(own[0, :13], frames["5"].mean(axis=1), atol=1e-3)
    one, _ = Standardizer("speaker").statistics(corpus.utterances[4:5], frames, corpus.utterances)
    both = np.concatenate([frames["4"], frames["5"]], axis=1)  # whatever side the other is on
    np.testing.assert_allclose(one[0, :13], both.mean(axis=1), atol=1e-3)


def test_the_guard_refuses_statistics_that_cross_the_split(corpus, frames):
    sides = split(corpus, 0, validation=True)
    leaky = Standardizer().fit(sides.train + sides.test[:2], frames)
    with pytest.raises(ValueError, match="got those of held-out 0, 1; fit on train alone"):
        make_segments(corpus, sides.test, frames, leaky, stride_s=0.4)
    leaky.check_held_out(sides.validation)
    honest = Standardizer().fit(sides.train, frames)
    assert len(make_segments(corpus, sides.validation, frames, honest, stride_s=0.4))
    with pytest.raises(ValueError, match=r"expected a fitted standardizer; call fit\(split\.train"):
        make_segments(corpus, sides.test, frames, Standardizer(), stride_s=0.4)
    with pytest.raises(ValueError, match=r"expected a mode of train, none, .*, got 'batch'"):
        Standardizer("batch")
