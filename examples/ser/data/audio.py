"""Audio: decode a clip once, refuse an unusable one, resample to 16 kHz mono."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz; clips at a lower rate are refused
SHORTEST = 0.5  # s
SILENCE = 1e-4  # peak amplitude, -80 dB of full scale; a clip below it is silent


class ClipError(ValueError):
    """A clip that cannot be used: what is wrong, and a hint."""


@dataclass(frozen=True)
class Clip:
    """A decoded clip: mono `signal` (n,) float32 at 16 kHz, and the format of its file."""

    signal: np.ndarray
    rate: int  # Hz
    channels: int
    seconds: float


def read_clip(
    path: str | Path, degrade: Callable[[np.ndarray, int], np.ndarray] | None = None
) -> Clip:
    """Decode, check, average the channels and resample to 16 kHz.

    `degrade(wave, rate)` changes the wave before it is resampled.

    Raises:
        ClipError: unreadable, truncated, empty, NaN or infinite, below 16 kHz, too short, silent.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size == 0:
        raise ClipError("expected audio, got an empty file (0 bytes); copy the clip again")
    try:
        with soundfile.SoundFile(path) as file:
            rate, header = file.samplerate, file.extra_info
            wave = file.read(dtype="float32", always_2d=True)  # (n, channels)
    except (soundfile.SoundFileError, OSError) as error:
        raise ClipError(f"expected readable audio, got {error}; copy the clip again") from error
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", header, re.MULTILINE)
    if cut and int(cut[2]) < int(cut[1]) < 0x7FFFFFFF:  # streamed WAVs announce a maximum instead
        raise ClipError(f"expected {cut[1]} bytes, got {cut[2]} (truncated); copy the clip again")
    seconds = len(wave) / rate
    if not len(wave):
        raise ClipError("expected audio, got 0 samples; copy or record the clip again")
    if not np.isfinite(wave).all():
        bad = (~np.isfinite(wave)).sum()
        raise ClipError(f"expected finite samples, got {bad} NaN or infinite; export it again")
    if rate < SAMPLE_RATE:
        raise ClipError(f"expected {SAMPLE_RATE} Hz or more, got {rate} Hz; get the original")
    if seconds < SHORTEST:
        raise ClipError(f"expected {SHORTEST} s or more, got {seconds:.2f} s; leave it out")
    mono = wave.mean(axis=1)
    if np.abs(mono).max() < SILENCE:
        raise ClipError(
            f"expected a peak of {SILENCE:g} or more, got {np.abs(mono).max():.1g}; record it again"
        )
    if degrade:
        mono = degrade(mono, rate)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return Clip(mono, rate, wave.shape[1], seconds)
