"""Audio: decode a clip once, refuse an unusable one, resample to 16 kHz mono."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.errors import UserError

SAMPLE_RATE = 16_000  # Hz; clips at a lower rate are refused
TELEPHONE_RATE = 8_000  # Hz; the lowest rate that is taken where the caller asks for it
SHORTEST = 0.5  # s
LONGEST = 300.0  # s; more is a recording that was not cut into utterances, or a broken header
SILENCE = 1e-4  # peak amplitude, -80 dB of full scale; a clip below it is silent
LOUDEST = 10.0  # peak amplitude; full scale is 1
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class ClipError(UserError):
    """A clip that cannot be used: what is wrong, and a hint."""


@dataclass(frozen=True)
class Clip:
    """A decoded clip: mono `signal` (n,) float32 at 16 kHz, and the format of its file."""

    signal: np.ndarray
    rate: int  # Hz
    channels: int
    seconds: float


def read_clip(
    path: str | Path,
    degrade: Callable[[np.ndarray, int], np.ndarray] | None = None,
    *,
    telephone: bool = False,
) -> Clip:
    """Decode, check, average the channels and resample to 16 kHz.

    `degrade(wave, rate)` changes the wave before it is resampled. With `telephone` clips from
    8 kHz on are taken: resampling leaves the upper half of their spectrum empty.

    Raises:
        ClipError: unreadable, truncated, empty, NaN or infinite, at too low a rate, too short, too
            long, silent, too loud, or of channels that cancel each other.
    """
    wave, rate = _decode(Path(path))
    seconds = len(wave) / rate
    lowest = TELEPHONE_RATE if telephone else SAMPLE_RATE
    if not len(wave):
        raise ClipError("expected audio, got 0 samples; copy or record the clip again")
    if not np.isfinite(wave).all():
        bad = (~np.isfinite(wave)).sum()
        raise ClipError(f"expected finite samples, got {bad} NaN or infinite; export it again")
    if rate < lowest:
        hint = "get the original" + ", or pass --telephone" * (rate >= TELEPHONE_RATE)
        raise ClipError(f"expected {lowest} Hz or more, got {rate} Hz; {hint}")
    if seconds < SHORTEST:
        raise ClipError(f"expected {SHORTEST} s or more, got {seconds:.2f} s; leave it out")
    mono, peak = wave.mean(axis=1), float(np.abs(wave).max())
    if peak > LOUDEST:
        hint = "divide the samples by full scale, 32768 for 16 bits"
        raise ClipError(f"expected a peak of {LOUDEST:g} or less, got {peak:.3g}; {hint}")
    if peak >= SILENCE > np.abs(mono).max():
        raise ClipError(
            "expected channels that can be averaged, got some that cancel each other (antiphase); "
            "export one channel"
        )
    if np.abs(mono).max() < SILENCE:
        raise ClipError(
            f"expected a peak of {SILENCE:g} or more, got {np.abs(mono).max():.1g}; record it again"
        )
    if degrade:
        mono = degrade(mono, rate)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return Clip(mono, rate, wave.shape[1], seconds)


def _decode(path: Path) -> tuple[np.ndarray, int]:
    """Return the samples (n, channels) of a file and their rate; its header bounds the memory."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(LFS_POINTER))
            if not start:
                raise ClipError("expected audio, got an empty file (0 bytes); copy the clip again")
            if start == LFS_POINTER:
                raise ClipError("expected audio, got a Git LFS pointer; run git lfs pull")
        with soundfile.SoundFile(path) as file:
            rate, header = file.samplerate, file.extra_info
            limit = int(LONGEST * rate)
            if file.frames > limit:  # a FLAC of unknown length announces a maximum
                unknown = file.frames > 1 << 62
                length = "no length" if unknown else f"{file.frames / rate:.4g} s"
                raise ClipError(
                    f"expected {LONGEST:g} s or less, got {length} by the header "
                    f"({file.channels} channels); cut it into utterances, or export it again"
                )
            wave = file.read(frames=limit, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise ClipError(f"expected readable audio, got {error}; copy the clip again") from error
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", header, re.MULTILINE)
    if cut and int(cut[2]) < int(cut[1]) < 0x7FFFFFFF:  # streamed WAVs announce a maximum instead
        raise ClipError(f"expected {cut[1]} bytes, got {cut[2]} (truncated); copy the clip again")
    return wave, rate
