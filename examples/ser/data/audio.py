"""Audio: decode a clip once, refuse what no feature can be taken from, bring it to 16 kHz mono."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz; every clip is resampled to it, none from below it
SHORTEST = 0.5  # s
SILENCE = 1e-4  # peak amplitude of full scale 1, -80 dB: below it nothing was recorded


class ClipError(ValueError):
    """A clip that cannot be used: what is wrong, and the mend."""


@dataclass(frozen=True)
class Clip:
    """A decoded clip: mono `signal` (n,) float32 at 16 kHz, and how the file had it."""

    signal: np.ndarray
    rate: int  # Hz
    channels: int
    seconds: float


def read_clip(
    path: str | Path, degrade: Callable[[np.ndarray, int], np.ndarray] | None = None
) -> Clip:
    """Decode, check, average the channels and resample to 16 kHz.

    `degrade` changes the wave, given with its rate, before it is resampled.

    Raises:
        ClipError: unreadable, truncated, empty, NaN or infinite, below 16 kHz, too short, silent.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size == 0:
        raise ClipError("empty (0 bytes); copy the clip again")
    try:
        with soundfile.SoundFile(path) as file:
            rate, header = file.samplerate, file.extra_info
            wave = file.read(dtype="float32", always_2d=True)  # (n, channels)
    except (soundfile.SoundFileError, OSError) as error:
        raise ClipError(f"unreadable ({error}); copy the clip again") from error
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", header, re.MULTILINE)
    if cut and int(cut[2]) < int(cut[1]) < 0x7FFFFFFF:  # streamed WAVs announce a maximum instead
        raise ClipError(f"truncated, {cut[2]} of {cut[1]} bytes; copy the clip again")
    seconds = len(wave) / rate
    if not len(wave):
        raise ClipError("empty (0 samples); copy or record the clip again")
    if not np.isfinite(wave).all():
        raise ClipError(f"{(~np.isfinite(wave)).sum()} NaN or infinite samples; export it again")
    if rate < SAMPLE_RATE:
        raise ClipError(f"sample rate {rate} Hz, wanted {SAMPLE_RATE} Hz or more; get the original")
    if seconds < SHORTEST:
        raise ClipError(f"too short, {seconds:.2f} s of at least {SHORTEST} s; leave it out")
    mono = wave.mean(axis=1)
    if np.abs(mono).max() < SILENCE:
        raise ClipError(f"silent, peak {np.abs(mono).max():.1g} of 1; record it again")
    if degrade:
        mono = degrade(mono, rate)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return Clip(mono, rate, wave.shape[1], seconds)
