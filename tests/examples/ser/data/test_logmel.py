"""Log-mel energies, against the definition computed by hand."""

import numpy as np

from examples.ser.data.features import LOG_MEL
from examples.ser.data.logmel import FLOOR, log_mel


def slaney(hz):
    """Return mel of a frequency: linear below 1 kHz, logarithmic above."""
    hz = np.asarray(hz, float)
    above = 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4)
    return np.where(hz < 1000, 3 * hz / 200, above)


def edges():
    """Return the corners (66,) of the bands in Hz, from 50 Hz to 8 kHz, even in mel."""
    mel = np.linspace(slaney(50), slaney(8000), 66)
    grid = np.linspace(0, 8000, 400_001)
    return np.interp(mel, slaney(grid), grid)


def test_a_frame_is_the_log_of_the_bands_of_its_windowed_power():
    signal = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    made = log_mel(signal)
    assert made.shape == (64, 1 + 8000 // 160)
    assert made.dtype == np.float32
    at, corner = 20, edges()  # the frame around sample 3,200
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(signal[160 * at - 200 : 160 * at + 200] * window, 512)) ** 2
    hz = np.arange(257) * 16_000 / 512
    for band in (0, 10, 40, 63):
        low, middle, high = corner[band : band + 3]
        rise, fall = (hz - low) / (middle - low), (high - hz) / (high - middle)
        weight = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
        expected = 10 * np.log10(max(FLOOR, weight @ power))
        np.testing.assert_allclose(made[band, at], expected, atol=1e-3)


def test_silence_is_at_the_floor_and_a_segment_is_two_seconds():
    silence = log_mel(np.zeros(3200, np.float32))
    np.testing.assert_allclose(silence, np.full((64, 21), -100), rtol=1e-6)
    assert (LOG_MEL.rows, LOG_MEL.window, LOG_MEL.width) == (64, 200, 200)
