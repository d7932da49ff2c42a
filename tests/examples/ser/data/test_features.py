"""Feature sets: their shapes and caches."""

import numpy as np
import pytest

from examples.ser.data.feature_cache import load_frames
from examples.ser.data.features import FEATURES, MFCC_39, PROSODY
from examples.ser.data.manifest import load_manifest
from examples.ser.synthetic import write_synthetic
from tests.examples.ser.clips import NOISE


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_a_set_extracts_and_completes_the_rows_that_it_states(features):
    frames = features.extract(NOISE[:48_000])
    assert frames.shape[0] == features.cached_rows
    assert frames.dtype == np.float32
    assert features.complete(frames).shape == (features.rows, frames.shape[1])
    assert features.window <= features.width


def test_each_feature_set_has_a_cache_of_its_own(tmp_path):
    corpus = load_manifest(write_synthetic(tmp_path / "corpus", per_class=1))
    for _ in range(2):  # cold, then warm
        for features in (MFCC_39, PROSODY):
            _, frames = load_frames(corpus, tmp_path / "cache", features=features)
            assert {len(block) for block in frames.values()} == {features.cached_rows}
