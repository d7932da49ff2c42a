"""Reading a clip: every unusable one is refused with a hint, a usable one is 16 kHz mono."""

import numpy as np
import pytest
import soundfile
import soxr

from examples.ser.data.audio import ClipError, read_clip
from tests.examples.ser.clips import BAD, NOISE


@pytest.mark.parametrize("case", BAD)
def test_a_bad_clip_is_refused_with_a_hint(tmp_path, case):
    make, message = BAD[case]
    make(tmp_path / "bad.wav")
    with pytest.raises(ClipError, match=message):
        read_clip(tmp_path / "bad.wav")


def test_stereo_48_khz_is_averaged_and_resampled(tmp_path):
    wave = np.stack([NOISE, 0.5 * NOISE], axis=1)
    soundfile.write(tmp_path / "a.wav", wave, 48_000, subtype="FLOAT")
    clip = read_clip(tmp_path / "a.wav")
    assert (clip.rate, clip.channels, clip.seconds) == (48_000, 2, 4.0)
    expected = soxr.resample(0.75 * NOISE, 48_000, 16_000, quality="HQ")
    np.testing.assert_allclose(clip.signal, expected, atol=1e-6)
    assert clip.signal.shape == (64_000,)
