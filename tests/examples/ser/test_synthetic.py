"""The synthetic corpus: deterministic, labelled as such, and neither trivial nor hopeless."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from examples.ser.data.feature_cache import load_frames
from examples.ser.data.manifest import load_manifest
from examples.ser.data.splits import split
from examples.ser.synthetic import STYLES, synthesize, write_synthetic


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    corpus = load_manifest(write_synthetic(folder))
    return load_frames(corpus, folder / "cache", progress=False)


def test_the_corpus_says_that_it_is_synthetic_and_is_balanced(loaded):
    corpus, _ = loaded
    assert corpus.name == "synthetic"
    assert all("synthetic" in u.id for u in corpus.utterances)
    assert corpus.labels == tuple(sorted(STYLES))
    assert set(Counter((u.speaker, u.label) for u in corpus.utterances).values()) == {5}
    assert len(corpus.speakers) == 8
    for fold in range(4):
        sides = split(corpus, fold, validation=True)
        assert {u.gender for u in sides.test} == {"male", "female"}
        assert [len(sides.train), len(sides.validation), len(sides.test)] == [80, 40, 40]


def test_clips_are_mono_16_khz_without_clipping_and_of_the_stated_length(loaded):
    for u in loaded[0].utterances:
        wave, rate = soundfile.read(u.path)
        assert (wave.ndim, rate) == (1, 16_000)
        assert 1.2 <= len(wave) / rate <= 3.2
        assert (np.abs(wave) >= 0.98).mean() < 0.01


def test_a_clip_depends_on_its_four_arguments_and_nothing_else():
    first = synthesize("sad", 1, 0, 7)
    assert np.array_equal(first, synthesize("sad", 1, 0, 7))
    for other in (("happy", 1, 0, 7), ("sad", 2, 0, 7), ("sad", 1, 1, 7), ("sad", 1, 0, 8)):
        wave = synthesize(*other)
        assert wave.shape != first.shape or not np.array_equal(wave, first)


def test_emotion_is_learnable_across_speakers_but_not_trivial(loaded):
    corpus, frames = loaded
    x = np.array([[*frames[u.id].mean(1), *frames[u.id].std(1)] for u in corpus.utterances])
    y = np.array([u.label for u in corpus.utterances])
    folds = np.array([u.fold for u in corpus.utterances])
    right = np.zeros(len(y), bool)
    for fold in corpus.folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        model.fit(x[folds != fold], y[folds != fold])
        right[folds == fold] = model.predict(x[folds == fold]) == y[folds == fold]
    assert 0.7 < right.mean() < 0.97  # chance is 0.25


def test_the_command_writes_the_corpus(tmp_path):
    command = [sys.executable, "-m", "examples.ser.synthetic", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--speakers", "4", "--per-class", "1", "--seed", "3"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("SYNTHETIC corpus (no person spoke it) of 4 speakers")
    assert len(load_manifest(tmp_path / "out" / "manifest.csv").utterances) == 16


@pytest.mark.parametrize("wrong", [{"speakers": 5}, {"speakers": 2}, {"per_class": 0}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected an even number of 4 speakers or more"):
        write_synthetic(tmp_path, **wrong)
