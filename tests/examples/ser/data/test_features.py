"""Reading and checking clips, MFCC, the cache, segments and standardisation."""

import os
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.fft
import soundfile
import soxr

from examples.ser.data import features
from examples.ser.data.corpora import Corpus, CorpusError, Utterance, load_ravdess, ravdess_rows
from examples.ser.data.features import (
    ClipError,
    Standardizer,
    add_deltas,
    load_frames,
    make_segments,
    mfcc,
    read_clip,
    segment_starts,
)
from examples.ser.data.load import split

REPO = Path(__file__).parents[4]
RAVDESS = Path(os.environ.get("ICASA_RAVDESS", REPO.parent / "shared" / "data" / "ravdess"))
NOISE = np.random.default_rng(0).normal(0, 0.1, 4 * 48_000).astype(np.float32)


def write(path, seconds, rate=16_000, channels=1, gain=1.0):
    wave = gain * NOISE[: int(seconds * rate)]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


@pytest.fixture
def corpus(tmp_path):
    """Six speakers in three folds, twelve clips of 1.0 to 3.75 s."""
    clips = []
    for n in range(12):
        path = write(tmp_path / f"{n}.wav", 1 + n / 4, gain=1 / (n + 1))
        label, speaker = ("sad", "happy")[n % 2], f"s{n // 2}"
        clips.append(Utterance(str(n), path, label, speaker, fold=n // 4))
    return Corpus("toy", ("happy", "sad"), tuple(clips))


@pytest.fixture
def frames(corpus, tmp_path):
    return load_frames(corpus, tmp_path / "cache", progress=False)[1]


def nan(path):
    wave = NOISE[:16_000].copy()
    wave[3:5] = np.nan, np.inf
    soundfile.write(path, wave, 16_000, subtype="FLOAT")


def truncated(path):
    write(path, 2)
    path.write_bytes(path.read_bytes()[:40_000])


def opposed(path):
    soundfile.write(path, np.stack([NOISE[:16_000], -NOISE[:16_000]], axis=1), 16_000)


BAD = {
    "unreadable": (lambda path: path.write_bytes(b"no audio at all"), r"unreadable \(.*\); copy"),
    "folder": (lambda path: path.mkdir(), "unreadable"),
    "truncated": (truncated, "truncated, 39956 of 64000 bytes; copy the clip again"),
    "zero": (lambda path: path.write_bytes(b""), r"empty \(0 bytes\); copy"),
    "empty": (lambda path: write(path, 0), r"empty \(0 samples\); copy or record"),
    "silent": (lambda path: write(path, 1, gain=0), "silent, peak 0 of 1; record it again"),
    "opposed": (opposed, "silent, peak"),
    "short": (
        lambda path: write(path, 0.49),
        r"too short, 0\.49 s of at least 0\.5 s; leave it out",
    ),
    "nan": (nan, "2 NaN or infinite samples; export it again"),
    "rate": (
        lambda path: write(path, 1, rate=8_000),
        "sample rate 8000 Hz, wanted 16000 Hz or more",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_clip_is_refused_with_its_mend(tmp_path, case):
    make, message = BAD[case]
    make(tmp_path / "bad.wav")
    with pytest.raises(ClipError, match=message):
        read_clip(tmp_path / "bad.wav")


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
    with pytest.raises(CorpusError, match="no usable clip is left"):
        load_frames(nothing, tmp_path / "cache", skip_bad=True, progress=False)


def test_stereo_48_khz_is_averaged_and_resampled(tmp_path):
    wave = np.stack([NOISE, 0.5 * NOISE], axis=1)
    soundfile.write(tmp_path / "a.wav", wave, 48_000, subtype="FLOAT")
    clip = read_clip(tmp_path / "a.wav")
    assert (clip.rate, clip.channels, clip.seconds) == (48_000, 2, 4.0)
    expected = soxr.resample(0.75 * NOISE, 48_000, 16_000, quality="HQ")
    np.testing.assert_allclose(clip.signal, expected, atol=1e-6)
    assert clip.signal.shape == (64_000,)


def test_the_official_layout_goes_through_with_notes_on_what_deviates(tmp_path):
    root = tmp_path / "ravdess" / "Audio_Speech_Actors_01-24"
    source = write(tmp_path / "s.wav", 0.6, 48_000)
    for n, row in enumerate(ravdess_rows()):
        path = root / row["speaker"] / f"{row['id']}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(source) if n > 1 else write(path, 0.7, 22_050 if n else 48_000, 2 - n)
    corpus, frames = load_frames(load_ravdess(tmp_path / "ravdess"), tmp_path / "cache")
    assert len(frames) == 1440
    assert corpus.notes[1:] == (
        "1 clips at another sample rate: 03-01-01-01-01-02-01 (22050 Hz)",
        "1 clips of several channels, averaged: 03-01-01-01-01-01-01",
    )
    assert "1440 clips at 48000 Hz, mean 0.60 s, from 0.60 s" in corpus.notes[0]


def test_mfcc_equals_its_definition():
    wave = NOISE[:16_000].astype(np.float64)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
    index = np.arange(1 + (16_000 - 400) // 160)[:, None] * 160 + np.arange(400)
    power = np.abs(np.fft.rfft(wave[index] * hamming)) ** 2  # (F, 201)
    mel = power @ librosa.filters.mel(sr=16_000, n_fft=400, n_mels=26).T
    expected = scipy.fft.dct(10 * np.log10(np.maximum(mel, 1e-10)), type=2, norm="ortho")[:, :13].T
    assert expected.shape == (13, 98)
    np.testing.assert_allclose(mfcc(NOISE[:16_000]), expected, atol=2e-3, rtol=1e-5)


@pytest.mark.parametrize("start", [0, 37, 100])
def test_a_segment_of_the_wave_has_the_frames_of_the_utterance(start):
    utterance = NOISE[:56_000] * np.geomspace(1, 1e-6, 56_000, dtype=np.float32)
    whole = mfcc(utterance)
    window = mfcc(utterance[start * 160 : start * 160 + 32_000])
    assert window.shape == (13, 198)
    np.testing.assert_allclose(whole[:, start : start + 198], window, atol=1e-4)
    np.testing.assert_allclose(
        add_deltas(whole[:, start : start + 198]), add_deltas(window), atol=1e-4
    )


def test_deltas_are_slopes():
    ramp = np.tile(3.0 * np.arange(30, dtype=np.float32), (13, 1))
    deltas = add_deltas(ramp)
    assert deltas.shape == (39, 30)
    np.testing.assert_allclose(deltas[13:26, 8:-8], 3.0, atol=1e-4)
    np.testing.assert_allclose(deltas[26:, 8:-8], 0.0, atol=1e-4)
    bend = np.tile(np.arange(30, dtype=np.float32) ** 2, (13, 1))
    np.testing.assert_allclose(add_deltas(bend)[26:, 8:-8], 2.0, atol=1e-3)
    np.testing.assert_allclose(add_deltas(np.full((13, 20), -50.0))[13:], 0.0, atol=1e-4)
    stack = np.stack([ramp, bend])
    np.testing.assert_allclose(add_deltas(stack)[1], add_deltas(bend), atol=1e-5)


def test_a_warm_cache_reads_no_audio_and_a_changed_file_is_read_again(
    corpus, frames, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(features, "read_clip", lambda path: pytest.fail(f"{path} was read"))
        again, warm = load_frames(corpus, tmp_path / "cache", progress=False)
    assert again.notes == load_frames(corpus, tmp_path / "other", progress=False)[0].notes
    assert warm.keys() == frames.keys()
    assert all(np.array_equal(warm[key], frames[key]) for key in frames)
    assert warm["4"].dtype == np.float32
    write(corpus.utterances[4].path, 1.5)
    changed = load_frames(corpus, tmp_path / "cache", progress=False)[1]
    assert changed["4"].shape == (13, 148)
    assert np.array_equal(changed["5"], frames["5"])
    write(corpus.utterances[4].path, 1.5, gain=0.3)  # as many bytes as before, but later
    os.utime(corpus.utterances[4].path, (2e9, 2e9))
    later = load_frames(corpus, tmp_path / "cache", progress=False)[1]
    assert not np.array_equal(later["4"], changed["4"])
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 3
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_an_unwritable_cache_is_named_before_any_audio_is_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "read_clip", lambda path: pytest.fail(f"{path} was read"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cache folder .*file: not writable \(.*\); name another"):
        load_frames(corpus, tmp_path / "file", progress=False)


def test_windows_start_until_one_reaches_the_end():
    assert segment_starts(198, 1.0).tolist() == [0]
    assert segment_starts(50, 0.4, "drop").tolist() == [0]
    assert segment_starts(199, 1.0).tolist() == [0, 100]
    assert segment_starts(199, 1.0, "drop").tolist() == [0]
    assert (
        segment_starts(298, 1.0).tolist() == segment_starts(298, 1.0, "drop").tolist() == [0, 100]
    )
    assert segment_starts(368, 0.4).tolist() == [0, 40, 80, 120, 160, 200]
    assert segment_starts(368, 0.4, "drop").tolist() == [0, 40, 80, 120, 160]
    for arguments, message in (
        ((100, 3.0), r"stride 3\.0 s: wanted 0\.01 to 1\.98 s"),
        ((100, 1.0, "crop"), "tail 'crop': wanted 'pad' or 'drop'"),
        ((0, 1.0), "0 frames: wanted 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            segment_starts(*arguments)


@pytest.mark.parametrize("mode", Standardizer.MODES)
def test_segments_equal_the_one_by_one_recipe(corpus, frames, mode):
    train = [u for u in corpus.utterances if u.fold != 1]
    standardizer = Standardizer(mode).fit(train, frames)
    result = make_segments(
        corpus, train, frames, standardizer, stride_s=0.4, tail="pad", held_out=False
    )
    assert result.x.shape == (len(result), 1, 39, 200)
    mean, std = standardizer.statistics(train, frames, corpus.utterances)
    row = 0
    for n, u in enumerate(train):
        for start in segment_starts(frames[u.id].shape[1], 0.4):
            window = frames[u.id][:, start : start + 198]
            expected = (add_deltas(window) - mean[n][:, None]) / std[n][:, None]
            valid = window.shape[1]
            np.testing.assert_allclose(result.x[row, 0, :, :valid].numpy(), expected, atol=1e-4)
            assert (result.x[row, 0, :, valid:] == 0).all()
            assert result.valid[row] == valid
            assert corpus.utterances[result.utterance[row]] == u
            assert corpus.labels[result.y[row]] == u.label
            assert corpus.speakers[result.speaker[row]] == u.speaker
            row += 1
    assert row == len(result)


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
    with pytest.raises(ValueError, match="fitted on held-out 0, 1; fit on train alone"):
        make_segments(corpus, sides.test, frames, leaky, stride_s=0.4)
    leaky.check_held_out(sides.validation)
    honest = Standardizer().fit(sides.train, frames)
    assert len(make_segments(corpus, sides.validation, frames, honest, stride_s=0.4))
    with pytest.raises(ValueError, match=r"not fitted; call fit\(split\.train, frames\) first"):
        make_segments(corpus, sides.test, frames, Standardizer(), stride_s=0.4)
    with pytest.raises(ValueError, match="normalisation 'batch': wanted one of train, none"):
        Standardizer("batch")


@pytest.mark.skipif(
    not RAVDESS.is_dir(), reason=f"no RAVDESS at {RAVDESS}; name its folder by ICASA_RAVDESS"
)
def test_real_clips_give_finite_standardised_segments(tmp_path):
    corpus = load_ravdess(RAVDESS)
    few = tuple(u for u in corpus.utterances if u.id[9:17] == "01-02-02" and u.fold in {0, 1})
    corpus, frames = load_frames(replace(corpus, utterances=few), tmp_path, progress=False)
    sides = split(corpus, 0)
    standardizer = Standardizer().fit(sides.train, frames)
    train = make_segments(corpus, sides.train, frames, standardizer, stride_s=1.0, held_out=False)
    assert len(few) == 64
    assert abs(train.x.mean()) < 0.1
    assert 0.8 < train.x.std() < 1.2
    assert train.valid.min() >= 98
