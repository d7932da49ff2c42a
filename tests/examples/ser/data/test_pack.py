"""A packed corpus comes out as it went in."""

import numpy as np
import pytest

from examples.ser.data import pack
from examples.ser.data.corpora import CorpusError


def test_what_was_packed_comes_out(corpus, frames, tmp_path):
    pack.pack(corpus, frames, tmp_path / "a.npz")
    again, blocks = pack.unpack(tmp_path / "a.npz")
    assert (again.name, again.labels, again.folds) == (corpus.name, corpus.labels, corpus.folds)
    for a, b in zip(corpus.utterances, again.utterances, strict=True):
        for field in (*pack.FIELDS, "fold"):
            assert getattr(a, field) == getattr(b, field), field
        np.testing.assert_allclose(blocks[b.id], frames[a.id], rtol=2**-11, atol=1e-3)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(
            CorpusError, match=r"expected a packed .* run examples\.ser\.packed"
        ) as caught:
            pack.unpack(tmp_path / name)
        assert "unsafely" not in str(caught.value)  # as NumPy advises


def test_other_features_are_refused(corpus, frames, tmp_path):
    pack.pack(corpus, frames, tmp_path / "a.npz")
    with pytest.raises(CorpusError, match="expected prosody features, got mfcc"):
        pack.unpack(tmp_path / "a.npz", "prosody")


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("lengths", lambda values: values + (np.arange(12) == 3), "frames of 12 clips"),
        (
            "lengths",
            lambda values: values - 2 * (np.arange(12) == 0) * values,
            "frames of 12 clips",
        ),
        ("static", lambda values: values[:, 1:], "frames of 12 clips"),
        ("static", lambda values: values * np.float16(np.nan), "expected finite features"),
        ("label", lambda values: values[1:], "expected 12 clips in each column, got 11"),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(corpus, frames, tmp_path, field, change, message):
    pack.pack(corpus, frames, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        table = dict(file)
    np.savez(tmp_path / "a.npz", **table | {field: change(table[field])})
    with pytest.raises(CorpusError, match=rf"expected a packed corpus, got .*{message}.*; run"):
        pack.unpack(tmp_path / "a.npz")
