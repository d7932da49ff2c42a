"""The conditions of Tables 15 and 16: each measured by other means than those that made it."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, correlate, sosfilt

from examples.ser.data import degrade
from examples.ser.data import feature_cache as cache
from examples.ser.data.audio import ClipError, read_clip
from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.degrade import (
    CONDITIONS,
    RT60,
    DegradedReader,
    awgn,
    degraded_frames,
    mp3,
    mp3_bit_rate,
    reverb,
    room_response,
    utterance_rng,
)
from examples.ser.data.feature_cache import load_frames
from examples.ser.data.manifest import load_manifest
from examples.ser.synthetic import synthesize

SPEECH = synthesize("angry", 0, 0)  # at 16 kHz; 1.2 to 3.2 s


def babble(rate, seconds=2.0):
    """Noise below 4 kHz that comes and goes like syllables, at any rate."""
    n = int(rate * seconds)
    noise = np.random.default_rng(1).normal(0, 0.1, n) * np.sin(np.arange(n) / rate * 12) ** 2
    return sosfilt(butter(6, 4000, fs=rate, output="sos"), noise).astype(np.float32)


def lag(wave, other):
    """The shift in samples that correlates best."""
    return int(correlate(other, wave).argmax()) - (len(wave) - 1)


def decibel(signal, noise):
    return 10 * np.log10(np.sum(signal.astype(float) ** 2) / np.sum(noise.astype(float) ** 2))


@pytest.fixture
def corpus(tmp_path):
    """Four clips, one of them in stereo at 48 kHz."""
    clips = []
    for n in range(4):
        path = tmp_path / f"{n}.wav"
        if n == 3:
            left = babble(48_000)
            soundfile.write(path, np.stack([left, 0.5 * left], axis=1), 48_000, "FLOAT")
        else:
            soundfile.write(path, synthesize("sad", n, 0), 16_000)
        clips.append(Utterance(str(n), path, "sad", f"s{n}", fold=n))
    return Corpus("toy", ("sad",), tuple(clips))


# --- noise


@pytest.mark.parametrize(("condition", "snr"), [("awgn20", 20), ("awgn10", 10), ("awgn0", 0)])
def test_the_snr_measured_over_the_utterance_is_the_one_asked_for(condition, snr):
    noisy = CONDITIONS[condition](SPEECH, 16_000, utterance_rng("a", 0))
    assert noisy.dtype == np.float32
    assert decibel(SPEECH, noisy - SPEECH) == pytest.approx(snr, abs=1e-3)


def test_the_noise_is_white_and_gaussian():
    noise = awgn(SPEECH, 0.0, utterance_rng("a", 0)) - SPEECH
    noise /= noise.std()
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    bands = [band.mean() / spectrum.mean() for band in np.array_split(spectrum, 8)]
    np.testing.assert_allclose(bands, 1.0, atol=0.12)
    assert np.mean(noise**4) == pytest.approx(3.0, abs=0.2)  # 1.8 if uniform


def test_the_noise_is_of_the_utterance_and_the_seed():
    def noise(utterance, seed):
        return awgn(SPEECH, 10.0, utterance_rng(utterance, seed))

    np.testing.assert_array_equal(noise("a", 0), noise("a", 0))
    for other in (noise("b", 0), noise("a", 1)):
        assert abs(np.corrcoef(noise("a", 0) - SPEECH, other - SPEECH)[0, 1]) < 0.05
    # By SHA-256 and not by hash(), which another process salts anew.
    seed = int(hashlib.sha256(b"0/a").hexdigest(), 16)
    assert utterance_rng("a", 0).random() == np.random.default_rng(seed).random()


# --- MP3


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_mp3_keeps_length_lag_and_most_of_the_signal(rate):
    wave = babble(rate)
    decoded = mp3(wave, rate)
    assert decoded.shape == wave.shape
    assert decoded.dtype == np.float32
    assert lag(wave, decoded) == 0
    assert 5 < decibel(wave, decoded - wave) < 60


@pytest.mark.parametrize("rate", degrade.MP3_LEVEL)
def test_the_bit_rate_measured_is_that_of_the_size(rate):
    for level in (degrade.MP3_LEVEL[rate], 0.9):
        files = [io.BytesIO(), io.BytesIO()]
        for seconds, file in zip((1, 3), files, strict=True):
            options = {"bitrate_mode": "CONSTANT", "compression_level": level}
            soundfile.write(file, babble(rate, seconds), rate, format="MP3", **options)
        one, three = (mp3_bit_rate(file.getvalue()) for file in files)
        assert one == pytest.approx(three, rel=0.01)
        # The difference is 2 s, without what stands before and after.
        assert three == pytest.approx(8 * (files[1].tell() - files[0].tell()) / 2000, rel=0.04)
        assert (three == pytest.approx(128, rel=0.005)) == (level != 0.9)


def test_another_bit_rate_is_refused(monkeypatch):
    monkeypatch.setitem(degrade.MP3_LEVEL, 16_000, 0.65)
    with pytest.raises(RuntimeError, match=r"samples of MP3 at 128 kbps, got \d+ at 64.0 kbps of"):
        mp3(SPEECH, 16_000)
    with pytest.raises(ClipError, match=r"expected 16000, .* for MP3 at 128 kbps, got 96000 Hz"):
        mp3(SPEECH, 96_000)
    with pytest.raises(ValueError, match=r"expected an MPEG-1 .* got none at byte 0; encode"):
        mp3_bit_rate(b"RIFF" + bytes(100))


# --- reverberation


def schroeder(response, rate, high, low):
    """Seconds per 60 dB, from where the energy that is left passes `high` and `low` dB."""
    left = 1 - np.cumsum(np.append(0, response[:-1] ** 2)) / np.sum(response**2)
    level = 10 * np.log10(np.maximum(left, 1e-12))
    first, last = np.argmax(level < high), np.argmax(level < low)
    return (last - first) / rate * 60 / (high - low)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_the_room_measures_an_rt60_of_300_ms(rate):
    response, onset = room_response(rate)
    assert schroeder(response, rate, -5, -35) == pytest.approx(RT60, abs=0.01)
    assert schroeder(response, rate, -5, -25) == pytest.approx(RT60, abs=0.01)
    assert schroeder(response, rate, -5, -65) == pytest.approx(RT60, abs=0.02)
    assert onset == np.abs(response).argmax()
    distance = np.linalg.norm(np.subtract(degrade.TALKER, degrade.MICROPHONE))
    assert onset == pytest.approx(rate * distance / 343 + 40, abs=0.5)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_reverb_keeps_length_lag_and_level(rate):
    wave = babble(rate)
    wet = reverb(wave, rate)
    assert wet.shape == wave.shape
    assert wet.dtype == np.float32
    assert lag(wave, wet) == 0
    assert decibel(wave, wet) == pytest.approx(0, abs=1e-3)


def test_the_room_answers_after_the_sound_and_not_before():
    click = np.zeros(16_000, np.float32)
    click[4000] = 1
    energy = reverb(click, 16_000) ** 2
    assert energy.argmax() == 4000
    assert energy[:3960].sum() < 3e-3 * energy.sum()
    assert energy[4040:].sum() > 0.3 * energy.sum()


# --- clips and caches


def test_clean_is_the_identity(corpus, tmp_path):
    assert CONDITIONS["clean"](SPEECH, 16_000, utterance_rng("a", 0)) is SPEECH
    plain = load_frames(corpus, tmp_path / "cache", progress=False)
    (path,) = (tmp_path / "cache").iterdir()
    settled, frames = degraded_frames(corpus, tmp_path / "cache", "clean", 0, progress=False)
    assert list((tmp_path / "cache").iterdir()) == [path]
    assert settled == plain[0]
    assert all(np.array_equal(frames[key], plain[1][key]) for key in plain[1])
    for clip in corpus.utterances:  # also in stereo at 48 kHz
        audio, expected = DegradedReader("clean", 0)(clip), read_clip(clip.path)
        np.testing.assert_array_equal(audio.signal, expected.signal)
        assert vars(audio) | {"signal": 0} == vars(expected) | {"signal": 0}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_condition_has_frames_of_the_clean_shape_and_a_cache(
    corpus, tmp_path, condition, monkeypatch
):
    clean = load_frames(corpus, tmp_path / "cache", progress=False)[1]
    arguments = (corpus, tmp_path / "cache", condition, 0)
    frames = degraded_frames(*arguments, progress=False)[1]
    assert {key: value.shape for key, value in frames.items()} == {
        key: value.shape for key, value in clean.items()
    }
    same = [np.array_equal(frames[key], clean[key]) for key in clean]
    assert same == [condition == "clean"] * len(clean)
    monkeypatch.setattr(degrade, "read_clip", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(cache, "read_clip", degrade.read_clip)
    again = degraded_frames(*arguments, progress=False)[1]
    assert all(np.array_equal(again[key], frames[key]) for key in frames)


def test_only_noise_is_cached_by_seed(corpus, tmp_path):
    first = degraded_frames(corpus, tmp_path, "awgn0", 0, progress=False)[1]
    second = degraded_frames(corpus, tmp_path, "awgn0", 1, progress=False)[1]
    assert not any(np.array_equal(first[key], second[key]) for key in first)
    keys = {str(DegradedReader(condition, seed).key) for condition in CONDITIONS for seed in (0, 1)}
    assert len(keys) == 3 + 2 * 3


def test_the_file_is_degraded_at_its_own_rate(corpus):
    clip = corpus.utterances[3]  # 48 kHz: the noise above 8 kHz goes with the resampling
    clean, noisy = read_clip(clip.path), DegradedReader("awgn10", 0)(clip)
    assert noisy.rate == 48_000
    snr = decibel(clean.signal, noisy.signal - clean.signal)
    assert snr == pytest.approx(10 + 10 * np.log10(3), abs=0.3)


def test_what_cannot_be_degraded_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"expected a condition of clean, awgn20, .*, got 'mp3'"):
        degraded_frames(corpus, tmp_path / "cache", "mp3", 0)
    assert not Path(tmp_path / "cache").exists()
    path = tmp_path / "96k.wav"
    soundfile.write(path, babble(96_000), 96_000)
    odd = Corpus("odd", ("sad",), (Utterance("x", path, "sad", "s"),))
    with pytest.raises(CorpusError, match=r"96k\.wav: expected .* for MP3 at 128 kbps, got 96000"):
        degraded_frames(odd, tmp_path / "cache", "mp3-128k", 0, progress=False)


def test_noise_does_not_depend_on_how_a_path_is_spelled(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    soundfile.write(folder / "a.wav", babble(16_000), 16_000)
    soundfile.write(folder / "b.wav", babble(16_000), 16_000)
    waves = []
    for spelled in ("a.wav", "./a.wav", "x/../a.wav", f"{folder / 'a.wav'}"):
        (folder / "x").mkdir(exist_ok=True)
        (folder / "m.csv").write_text(f"path,label,speaker\n{spelled},sad,x\nb.wav,sad,y\n")
        corpus = load_manifest(folder / "m.csv")
        waves.append(DegradedReader("awgn0", 1)(corpus.utterances[0]).signal)
    assert all(np.array_equal(wave, waves[0]) for wave in waves)
