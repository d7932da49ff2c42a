"""MFCC: their definition, and deltas that are slopes."""

import librosa
import numpy as np
import pytest
import scipy.fft

from examples.ser.data.mfcc import add_deltas, mfcc
from tests.examples.ser.clips import NOISE


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
