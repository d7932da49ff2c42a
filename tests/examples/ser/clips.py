"""Clips that the tests write, and the RAVDESS folder that some of them read."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPO = Path(__file__).parents[3]
RAVDESS = Path(os.environ.get("ICASA_RAVDESS", REPO.parent / "shared" / "data" / "ravdess"))
needs_ravdess = pytest.mark.skipif(
    not RAVDESS.is_dir(), reason=f"no RAVDESS at {RAVDESS}; set ICASA_RAVDESS to its folder"
)
NOISE = np.random.default_rng(0).normal(0, 0.1, 4 * 48_000).astype(np.float32)


def write_clip(path, seconds, rate=16_000, channels=1, gain=1.0):
    """Write seconds of noise; return the path."""
    wave = gain * NOISE[: int(seconds * rate)]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


def nan(path):
    wave = NOISE[:16_000].copy()
    wave[3:5] = np.nan, np.inf
    soundfile.write(path, wave, 16_000, subtype="FLOAT")


def truncated(path):
    write_clip(path, 2)
    path.write_bytes(path.read_bytes()[:40_000])


def opposed(path):
    soundfile.write(path, np.stack([NOISE[:16_000], -NOISE[:16_000]], axis=1), 16_000)


BAD = {  # name: what makes the file, and the message that refuses it
    "unreadable": (
        lambda path: path.write_bytes(b"no audio at all"),
        r"expected readable audio, got .*; copy the clip again",
    ),
    "folder": (lambda path: path.mkdir(), "expected readable audio"),
    "truncated": (truncated, r"expected 64000 bytes, got 39956 \(truncated\); copy the clip again"),
    "zero": (lambda path: path.write_bytes(b""), r"got an empty file \(0 bytes\); copy the clip"),
    "empty": (lambda path: write_clip(path, 0), "expected audio, got 0 samples; copy or record"),
    "silent": (
        lambda path: write_clip(path, 1, gain=0),
        "expected a peak of 0.0001 or more, got 0; record it again",
    ),
    "opposed": (opposed, "expected a peak of"),
    "short": (lambda path: write_clip(path, 0.49), r"expected 0\.5 s or more, got 0\.49 s; leave"),
    "nan": (nan, "expected finite samples, got 2 NaN or infinite; export it again"),
    "rate": (
        lambda path: write_clip(path, 1, rate=8_000),
        "expected 16000 Hz or more, got 8000 Hz; get the original",
    ),
}
