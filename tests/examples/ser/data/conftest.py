"""A small corpus of noise, and its frames."""

import pytest

from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.feature_cache import load_frames
from tests.examples.ser.clips import write_clip


@pytest.fixture
def corpus(tmp_path):
    """Six speakers in three folds, twelve clips of 1.0 to 3.75 s."""
    clips = []
    for n in range(12):
        path = write_clip(tmp_path / f"{n}.wav", 1 + n / 4, gain=1 / (n + 1))
        label, speaker = ("sad", "happy")[n % 2], f"s{n // 2}"
        clips.append(Utterance(str(n), path, label, speaker, fold=n // 4))
    return Corpus("toy", ("happy", "sad"), tuple(clips))


@pytest.fixture
def frames(corpus, tmp_path):
    return load_frames(corpus, tmp_path / "cache", progress=False)[1]
