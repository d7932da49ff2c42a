"""Clips that the tests write, and the RAVDESS folder that some of them read."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
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


def integers(path):
    soundfile.write(path, NOISE[:16_000] * 32_768, 16_000, subtype="FLOAT")


def flac(path, samples):
    """Write a FLAC whose header claims so many samples, 36 bits; 0 says unknown."""
    soundfile.write(path, NOISE[:16_000], 16_000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)


def hour_of_eight_channels(path):
    """Write the header of an hour, and its samples as a hole that takes no room."""
    soundfile.write(path, np.zeros((0, 8), np.float32), 16_000)
    size = 3600 * 16_000 * 8 * 2
    content = bytearray(path.read_bytes())
    start = content.index(b"data")
    content[start + 4 : start + 8] = size.to_bytes(4, "little")
    content[4:8] = (start + size).to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, len(content) + size)


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
    "opposed": (opposed, r"cancel each other \(antiphase\); export one channel"),
    "integers": (integers, r"expected a peak of 10 or less, got 1.+e\+04; divide the samples by"),
    "pointer": (
        lambda path: path.write_bytes(LFS_POINTER + b"v1\noid sha256:0\nsize 1\n"),
        "got a Git LFS pointer; run git lfs pull",
    ),
    "endless": (
        lambda path: flac(path, 2**36 - 1),
        r"300 s or less, got 4\.295e\+06 s by the head",
    ),
    "no length": (
        lambda path: flac(path, 0),
        r"300 s or less, got no length by the header",
    ),
    "hour": (hour_of_eight_channels, r"got 3600 s by the header \(8 channels\); cut it into utt"),
    "short": (lambda path: write_clip(path, 0.49), r"expected 0\.5 s or more, got 0\.49 s; leave"),
    "nan": (nan, "expected finite samples, got 2 NaN or infinite; export it again"),
    "rate": (
        lambda path: write_clip(path, 1, rate=8_000),
        "expected 16000 Hz or more, got 8000 Hz; get the original, or pass --telephone",
    ),
}
