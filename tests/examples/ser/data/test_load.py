"""From flags to segments: what each protocol keeps apart, and all faults in one list."""

import shutil

import pytest
import soundfile

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


def copies(manifest, tmp_path, make):
    """Return a manifest whose last row is the first clip, copied by `make`, of another speaker."""
    first = manifest.read_text().splitlines()[1].split(",")
    make(manifest.parent / first[0], tmp_path / f"copy-{make.__name__}.flac")
    rows = manifest.read_text().replace("\nS0", f"\n{manifest.parent}/S0")
    path = tmp_path / "m.csv"
    path.write_text(rows + f"copy-{make.__name__}.flac,{first[1]},S05,male,2,synthetic\n")
    return path


def link(source, target):
    target.hardlink_to(source)


def reencode(source, target):
    wave, rate = soundfile.read(source, dtype="int16")
    soundfile.write(target, wave, rate, "PCM_16", format="FLAC")


@pytest.mark.parametrize("make", [link, shutil.copy, reencode])
def test_one_recording_under_two_speakers_is_refused(manifest, tmp_path, make):
    with pytest.raises(CorpusError, match=r"expected one speaker of a recording, got S01 .*, S05"):
        load(flags(copies(manifest, tmp_path, make), tmp_path))


def test_one_class_is_refused(manifest, tmp_path):
    table = manifest.read_text().splitlines()
    path = manifest.parent / "one.csv"
    path.write_text("\n".join(line for n, line in enumerate(table) if ",sad," in line or not n))
    with pytest.raises(CorpusError, match="expected two classes or more, got sad; list clips of"):
        load(flags(path, tmp_path))


def test_two_spellings_cannot_be_skipped(manifest, tmp_path):
    path = manifest.parent / "spelled.csv"
    path.write_text(
        manifest.read_text().replace("happy_01.wav,happy,S01", "happy_01.wav,happy,s01")
    )
    for more in ((), ("--skip-bad",)):
        with pytest.raises(
            CorpusError, match="expected one spelling of a speaker, got 'S01', 's01"
        ):
            load(flags(path, tmp_path, *more))
