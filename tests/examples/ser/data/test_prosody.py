"""Prosodic features say what is known of tones and silence."""

import numpy as np
import pytest

from examples.ser.data.features import PROSODY
from examples.ser.data.prosody import MARGIN, N_MFCC, add_timbre_deltas, prosody, trim

PITCH, LEVEL = N_MFCC, N_MFCC + 1  # rows


def tone(hz, seconds=1.0):
    t = np.arange(int(16_000 * seconds)) / 16_000
    return (0.1 * sum(np.sin(2 * np.pi * k * hz * t) / k for k in (1, 2, 3))).astype(np.float32)


def test_silent_ends_are_cut_and_the_pause_inside_is_not():
    pause = np.zeros(8000, np.float32)
    speech = np.concatenate([tone(150), pause, tone(150)])
    cut = trim(np.concatenate([pause, speech, pause]))
    assert len(speech) <= len(cut) <= len(speech) + 2 * 160 * (MARGIN + 3)
    np.testing.assert_array_equal(trim(speech), speech)


@pytest.mark.parametrize("hz", [110.0, 300.0])
def test_pitch_is_that_of_the_tone(hz):
    rows = prosody(tone(hz))
    assert rows.shape == (PROSODY.cached_rows, rows.shape[1])
    assert np.exp(np.median(rows[PITCH])) == pytest.approx(hz, rel=0.01)


def test_loudness_moves_level_and_first_mfcc_alone():
    noise = np.random.default_rng(0).normal(0, 0.01, 16_000).astype(np.float32)
    quiet, loud = prosody(noise), prosody(4 * noise)
    moved = np.abs(loud - quiet).max(1) > 1e-2 * np.abs(quiet).max(1)
    assert set(np.flatnonzero(moved)) == {0, LEVEL}
    assert np.median(loud[LEVEL] - quiet[LEVEL]) == pytest.approx(np.log(4), rel=1e-3)


def test_deltas_are_the_slopes_of_the_mfcc():
    frames = np.arange(PROSODY.cached_rows)[:, None] * np.arange(40.0)[None]
    made = add_timbre_deltas(frames)
    assert made.shape == (PROSODY.rows, 40)
    np.testing.assert_array_equal(made[: PROSODY.cached_rows], frames)
    slopes = np.broadcast_to(np.arange(N_MFCC)[:, None], (N_MFCC, 20))
    np.testing.assert_allclose(made[PROSODY.cached_rows :, 10:30], slopes, atol=1e-9)
