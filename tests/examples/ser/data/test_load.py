"""From flags to segments: what each protocol keeps apart, and all faults in one list."""

import pytest

from examples.ser.data.corpora import CorpusError
from examples.ser.data.load import load
from examples.ser.run.flags import parse
from examples.ser.synthetic import write_synthetic


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("small"), per_class=1)


def flags(manifest, out, *more):
    common = ("--manifest", manifest, "--cache", manifest.parent / "cache", "--out", out, "--quiet")
    return parse([str(flag) for flag in (*common, *more)])


def clips(corpus, part):
    return {corpus.utterances[i].id.split("#")[0] for i in part.utterance.tolist()}


@pytest.mark.parametrize(
    ("protocol", "shares_speakers", "shares_clips"),
    [("speaker", False, False), ("leaky-utterance", True, False), ("leaky-segment", True, True)],
)
def test_a_protocol_leaks_what_its_name_says(
    manifest, tmp_path, protocol, shares_speakers, shares_clips
):
    args = flags(manifest, tmp_path, "--protocol", protocol, "--no-validation")
    corpus, data = load(args)
    train, test = data["train"], data["test"]
    assert bool({*train.speaker.tolist()} & {*test.speaker.tolist()}) == shares_speakers
    assert not {*train.utterance.tolist()} & {*test.utterance.tolist()}
    assert bool(clips(corpus, train) & clips(corpus, test)) == shares_clips
    assert clips(corpus, train) | clips(corpus, test) == {
        u.id.split("#")[0] for u in corpus.utterances
    }


def test_the_test_stride_is_that_of_the_held_out_sides(manifest, tmp_path):
    fine, coarse = (
        load(flags(manifest, tmp_path, "--validation", "--test-stride", stride))[1]
        for stride in ("0.1", "1.9")
    )
    assert list(fine) == ["train", "validation", "test"]
    assert len({*fine["validation"].speaker.tolist()}) == 2
    assert len(fine["train"]) == len(coarse["train"])
    for part in ("validation", "test"):
        assert len(fine[part]) > 1.2 * len(coarse[part])


@pytest.mark.parametrize("more", [(), ("--skip-bad",)])
def test_an_unwritable_folder_cannot_be_skipped(manifest, tmp_path, more):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"expected a writable folder, got --out .*file/run \("):
        load(flags(manifest, tmp_path / "file" / "run", *more))
