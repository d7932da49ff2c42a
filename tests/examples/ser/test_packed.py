"""A packed corpus trains as its clips do."""

import numpy as np
import pytest

from examples.ser import packed, train
from examples.ser.data.corpora import CorpusError
from examples.ser.data.frames import load_frames
from examples.ser.data.manifest import load_manifest
from examples.ser.synthetic import write_synthetic


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("small"), per_class=1)


def test_what_was_packed_comes_out(manifest, tmp_path):
    cache = tmp_path / "cache"
    packed.main(
        [*map(str, ("--manifest", manifest, "--cache", cache, "--out", tmp_path / "a.npz"))]
    )
    corpus, frames = load_frames(load_manifest(manifest), cache)
    again, blocks = packed.unpack(tmp_path / "a.npz")
    assert (again.name, again.labels, again.folds) == (corpus.name, corpus.labels, corpus.folds)
    for a, b in zip(corpus.utterances, again.utterances, strict=True):
        for field in (*packed.FIELDS, "fold"):
            assert getattr(a, field) == getattr(b, field), field
        np.testing.assert_allclose(blocks[b.id], frames[a.id], rtol=2**-11, atol=1e-3)


def test_training_runs_without_the_clips(manifest, tmp_path):
    packed.pack(*load_frames(load_manifest(manifest), tmp_path), tmp_path / "a.npz")
    flags = ("--packed", tmp_path / "a.npz", "--out", tmp_path / "run", "--epochs", 1, "--quiet")
    more = ("--attention", "none", "--batch-size", 32, "--threads", 1, "--device", "cpu")
    rows = train.main([str(flag) for flag in (*flags, *more)])
    assert rows[0]["corpus"] == load_manifest(manifest).name


def test_another_file_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(CorpusError, match=r"is no packed corpus .* examples\.ser\.packed"):
            packed.unpack(tmp_path / name)


def test_other_features_are_refused(manifest, tmp_path):
    packed.pack(*load_frames(load_manifest(manifest), tmp_path), tmp_path / "a.npz")
    with pytest.raises(CorpusError, match="wanted prosody features, got mfcc"):
        packed.unpack(tmp_path / "a.npz", "prosody")
