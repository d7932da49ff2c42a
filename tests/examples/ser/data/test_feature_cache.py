"""The feature cache: all bad clips in one list, warm without audio, cold after a change."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from examples.ser.data import feature_cache as cache
from examples.ser.data.corpora import CorpusError, Utterance
from examples.ser.data.feature_cache import load_frames
from examples.ser.data.features import FEATURES, MFCC_39
from examples.ser.data.ravdess import load_ravdess, ravdess_rows
from tests.examples.ser.clips import BAD, write_clip


def test_all_bad_clips_come_in_one_list_or_are_skipped_with_notice(corpus, tmp_path):
    bad = []
    for case, (make, _) in BAD.items():
        make(tmp_path / f"bad_{case}.wav")
        bad.append(Utterance(f"bad_{case}", tmp_path / f"bad_{case}.wav", "sad", "s0", fold=0))
    whole = replace(corpus, utterances=corpus.utterances + tuple(bad), problems=("x.txt: stray",))
    for _ in ("cold", "warm"):
        with pytest.raises(CorpusError) as caught:
            load_frames(whole, tmp_path / "cache", progress=False)
        assert len(caught.value.problems) == len(BAD) + 1
        assert all(str(clip.path) in str(caught.value) for clip in bad)
    settled, frames = load_frames(whole, tmp_path / "cache", skip_bad=True, progress=False)
    assert settled.utterances == corpus.utterances
    assert set(frames) == {clip.id for clip in corpus.utterances}
    assert not settled.problems
    skipped = [note for note in settled.notes if note.startswith("skipped: ")]
    assert skipped == [f"skipped: {problem}" for problem in caught.value.problems]
    nothing = replace(corpus, utterances=tuple(bad))
    with pytest.raises(CorpusError, match="expected a usable clip, got none"):
        load_frames(nothing, tmp_path / "cache", skip_bad=True, progress=False)


def test_the_official_layout_goes_through_with_notes_on_what_deviates(tmp_path):
    root = tmp_path / "ravdess" / "Audio_Speech_Actors_01-24"
    source = write_clip(tmp_path / "s.wav", 0.6, 48_000)
    for n, row in enumerate(ravdess_rows()):
        path = root / row["speaker"] / f"{row['id']}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(source) if n > 1 else write_clip(path, 0.7, 22_050 if n else 48_000, 2 - n)
    corpus, frames = load_frames(load_ravdess(tmp_path / "ravdess"), tmp_path / "cache")
    assert len(frames) == 1440
    assert corpus.notes[1:] == (
        "1 clips at another sample rate: 03-01-01-01-01-02-01 (22050 Hz)",
        "1 clips of several channels, averaged: 03-01-01-01-01-01-01",
    )
    assert "1440 clips (1439 at 48000 Hz), mean 0.60 s, from 0.60 s" in corpus.notes[0]


def test_a_warm_cache_reads_no_audio_and_a_changed_file_is_read_again(
    corpus, frames, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "read_clip", lambda path: pytest.fail(f"{path} was read"))
        again, warm = load_frames(corpus, tmp_path / "cache", progress=False)
    assert again.notes == load_frames(corpus, tmp_path / "other", progress=False)[0].notes
    assert warm.keys() == frames.keys()
    assert all(np.array_equal(warm[key], frames[key]) for key in frames)
    assert warm["4"].dtype == np.float32
    write_clip(corpus.utterances[4].path, 1.5)
    changed = load_frames(corpus, tmp_path / "cache", progress=False)[1]
    assert changed["4"].shape == (13, 148)
    assert np.array_equal(changed["5"], frames["5"])
    write_clip(corpus.utterances[4].path, 1.5, gain=0.3)  # as many bytes as before, but later
    os.utime(corpus.utterances[4].path, (2e9, 2e9))
    later = load_frames(corpus, tmp_path / "cache", progress=False)[1]
    assert not np.array_equal(later["4"], changed["4"])
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 3
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_the_cache_is_found_by_content_and_not_by_place_size_or_time(corpus, frames, tmp_path):
    other = tmp_path / "other"
    moved = replace(
        corpus,
        utterances=tuple(replace(u, path=other / u.path.name) for u in corpus.utterances),
    )
    other.mkdir()
    for before, after in zip(corpus.utterances, moved.utterances, strict=True):
        shutil.copy2(before.path, after.path)  # with its time
    stat = moved.utterances[4].path.stat()
    write_clip(moved.utterances[4].path, 2, gain=0.3)
    os.utime(moved.utterances[4].path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert moved.utterances[4].path.stat().st_size == stat.st_size
    changed = load_frames(moved, tmp_path / "cache", progress=False)[1]
    assert not np.array_equal(changed["4"], frames["4"])
    shutil.copyfile(corpus.utterances[4].path, moved.utterances[4].path)  # at another time
    load_frames(moved, tmp_path / "cache", progress=False)
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2


@pytest.mark.parametrize("features", FEATURES.values())
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_finite_samples_of_infinite_power_are_refused(corpus, tmp_path, features, rate):
    wave = 1e20 * np.sin(np.arange(rate))
    soundfile.write(tmp_path / "0.wav", wave, rate, subtype="FLOAT")
    with pytest.raises(CorpusError, match=r"0\.wav: expected a peak of 10 or less, got 1e\+20; d"):
        load_frames(corpus, tmp_path / "cache", progress=False, features=features)


def test_frames_that_are_not_finite_are_refused(corpus, tmp_path):
    broken = replace(MFCC_39, extract=lambda signal: np.full((13, 9), np.nan, np.float32))
    with pytest.raises(CorpusError, match="expected finite mfcc features, got NaN or infinite"):
        load_frames(corpus, tmp_path / "cache", progress=False, features=broken)


def test_an_unwritable_cache_is_named_before_any_audio_is_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "read_clip", lambda path: pytest.fail(f"{path} was read"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"expected a writable cache folder, got .*file \("):
        load_frames(corpus, tmp_path / "file", progress=False)


def test_a_damaged_cache_is_made_again_with_a_note(corpus, tmp_path):
    _, first = load_frames(corpus, tmp_path / "cache", progress=False)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    again, frames = load_frames(corpus, tmp_path / "cache", progress=False)
    assert any("was damaged" in note and path.name in note for note in again.notes)
    for name, block in first.items():
        np.testing.assert_array_equal(frames[name], block)
    assert not any("damaged" in n for n in load_frames(corpus, tmp_path / "cache")[0].notes)


def test_a_warm_cache_that_cannot_be_written_is_used(corpus, tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        ValueError, match=r"writable cache folder, got .* \(read-only\); give anoth"
    ):
        load_frames(corpus, tmp_path / "cache", progress=False)
    monkeypatch.undo()
    load_frames(corpus, tmp_path / "cache", progress=False)
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    assert len(load_frames(corpus, tmp_path / "cache", progress=False)[1]) == 12


def test_telephone_speech_is_taken_where_it_is_asked_for(corpus, tmp_path):
    path = write_clip(tmp_path / "line.wav", 1, rate=8_000)
    line = replace(corpus, utterances=(replace(corpus.utterances[0], id="line", path=path),))
    with pytest.raises(CorpusError, match="got 8000 Hz; get the original, or pass --telephone"):
        load_frames(line, tmp_path / "cache", progress=False)
    known, frames = load_frames(line, tmp_path / "cache", progress=False, telephone=True)
    assert frames["line"].shape[1] == 98
    assert known.notes[0].startswith("1 clips at 8000 Hz")


def test_names_in_a_note_are_counted(corpus, tmp_path):
    rates = [write_clip(tmp_path / f"r{n}.wav", 1, rate=22_050) for n in range(7)]
    clips = tuple(Utterance(path.stem, path, "sad", "s0", fold=0) for path in rates)
    mixed = replace(corpus, utterances=corpus.utterances + clips)
    notes = load_frames(mixed, tmp_path / "cache", progress=False)[0].notes
    assert notes[-1].endswith("r3 (22050 Hz) and 3 more")
