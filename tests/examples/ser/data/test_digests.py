"""The digests of a run's data: equal for the same contents, and each names what changed."""

import shutil

import pytest

from examples.ser import packed
from examples.ser.data.digests import differing, digests
from examples.ser.data.load import read, split_by_protocol
from examples.ser.run.flags import parse
from examples.ser.synthetic import write_synthetic
from tests.examples.ser.clips import write_clip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("original")
    return write_synthetic(root / "corpus", speakers=4, per_class=1)


@pytest.fixture
def manifest(original, tmp_path):
    """Return the manifest of a copy, under another name, with the clips a folder deeper."""
    shutil.copytree(original.parent, tmp_path / "moved" / "clips")
    path = tmp_path / "moved" / "mine.csv"
    table = original.read_text().replace("\nS0", "\nclips/S0").replace(",synthetic", ",mine")
    path.write_text(table)
    return path


def of(source, value, *more):
    cache = value.parent / "cache"
    run = (source, value, "--cache", cache, "--out", "o", "--quiet", "--no-validation", *more)
    args = parse([str(flag) for flag in run])
    whole, frames = read(args)
    corpus, sides = split_by_protocol(whole, frames, args)
    return digests(corpus, frames, sides)


def changed(a, b):
    return {*differing(a, b)}


def edit(manifest, old, new):
    manifest.write_text(manifest.read_text().replace(old, new))
    return of("--manifest", manifest)


def test_a_renamed_moved_or_packed_corpus_has_the_same(original, manifest, tmp_path):
    expected = of("--manifest", original)
    assert of("--manifest", manifest) == expected
    cache = str(original.parent / "cache")
    packed.main(["--manifest", str(original), "--cache", cache, "--out", str(tmp_path / "a.npz")])
    assert of("--packed", tmp_path / "a.npz") == expected


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("happy_01.wav,happy,S01", "happy_01.wav,sad,S01", {"labels of test"}),
        ("happy_01.wav,happy,S03", "happy_01.wav,sad,S03", {"labels of train"}),
        (",S01,male", ",Eve,male", {"speakers of test"}),
    ],
)
def test_what_was_corrected_is_named(original, manifest, old, new, names):
    assert changed(of("--manifest", original), edit(manifest, old, new)) == names


def test_other_folds_and_other_clips_are_named(original, manifest):
    before = of("--manifest", manifest)
    other_fold = of("--manifest", manifest, "--fold", "1")
    assert {"ids of train", "ids of test"} <= changed(before, other_fold)
    assert "features" not in changed(before, other_fold)
    write_clip(next(manifest.parent.glob("clips/S01/*")), 1)
    assert changed(before, of("--manifest", manifest)) == {"features"}


def test_a_protocol_that_splits_segments_has_them_too(original):
    leaky = ("--protocol", "leaky-segment")
    first, second = of("--manifest", original, *leaky), of("--manifest", original, *leaky)
    assert first == second
    assert changed(first, of("--manifest", original)) >= {"ids of train", "ids of test"}
