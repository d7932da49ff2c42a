"""The conditions of Tables 15 and 16: noise, MP3 and reverberation, on the wave of an utterance.

A wave is float32 mono (n,) at the sample rate of its file; it is degraded before it is resampled to
16 kHz and segmented, and keeps its length and alignment. So the file's rate is part of a condition:
MP3 is encoded at that rate, and white noise reaches up to half of it (at 48 kHz two thirds of its
power lie above 8 kHz and are removed by the resampling: +4.8 dB in SNR).
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyroomacoustics
import soundfile
from scipy.optimize import brentq
from scipy.signal import fftconvolve

from examples.ser.data.audio import Clip, ClipError, read_clip
from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.feature_cache import Frames, load_frames

MP3_KBPS = 128
# libsndfile's compression level that gives a constant 128 kbps, by sample rate in Hz.
MP3_LEVEL = {16_000: 0.2, 22_050: 0.2, 24_000: 0.2, 32_000: 0.65, 44_100: 0.65, 48_000: 0.65}
# The fields of an MP3 frame's header, by its version: 3 is MPEG-1, 2 is MPEG-2.
MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000)}  # Hz
MP3_BIT_RATES = {  # kbps
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# DIFF: section 3.4.5 gives a reverberation time and no room. Ours is an office of 54 m3, with the
# microphone 1 m from the talker.
ROOM = (5.0, 4.0, 2.7)  # m
TALKER = (1.6, 1.3, 1.5)  # m
MICROPHONE = (2.5, 1.75, 1.3)  # m
RT60 = 0.3  # s
ORDER = 50  # reflections of an image source


def awgn(wave: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise: the power of `wave` over that of the noise is `snr_db` dB.

    Both powers are means over the whole utterance, pauses included, and the noise is scaled by
    its own sample power, so the SNR is exact. Nothing is clipped.
    """
    noise = rng.standard_normal(len(wave))
    power = np.mean(np.square(wave, dtype=np.float64)) / 10 ** (snr_db / 10)
    return (wave + noise * np.sqrt(power / np.mean(noise**2))).astype(np.float32)


def mp3(wave: np.ndarray, rate: int) -> np.ndarray:
    """Encode to MP3 at a constant 128 kbps and decode, in memory, at the rate of the file.

    Raises:
        ClipError: MP3 has no 128 kbps at this rate.
        RuntimeError: libsndfile made another bit rate or length.
    """
    if rate not in MP3_LEVEL:
        known = ", ".join(str(hz) for hz in MP3_LEVEL)
        raise ClipError(
            f"expected {known} Hz for MP3 at {MP3_KBPS} kbps, got {rate} Hz; resample it"
        )
    file = io.BytesIO()
    soundfile.write(
        file, wave, rate, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT",
        compression_level=MP3_LEVEL[rate],
    )  # fmt: skip
    kbps = mp3_bit_rate(file.getvalue())
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    if abs(kbps - MP3_KBPS) > 1 or decoded.shape != wave.shape:
        version = soundfile.__libsndfile_version__
        raise RuntimeError(
            f"expected {len(wave)} samples of MP3 at {MP3_KBPS} kbps, got {len(decoded)} at "
            f"{kbps:.1f} kbps of libsndfile {version}; use libsndfile 1.2.2"
        )
    return decoded


def mp3_bit_rate(data: bytes) -> float:
    """Measure the bit rate, kbps, of an MP3 stream: its bits over the time that its frames play."""
    frames = start = 0
    while start < len(data) or not frames:
        header = int.from_bytes(data[start : start + 4], "big")
        version, layer = header >> 19 & 3, header >> 17 & 3
        kbps, hz, padding = header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
        if header >> 21 != 0x7FF or version < 2 or layer != 1 or kbps in {0, 15} or hz == 3:
            raise ValueError(
                f"expected an MPEG-1 or MPEG-2 layer III frame, got none at byte {start}; "
                "encode to MP3"
            )
        samples, rate = 576 * (version - 1), MP3_RATES[version][hz]
        start += samples * 125 * MP3_BIT_RATES[version][kbps] // rate + padding
        frames += 1
    return 8 * len(data) / (frames * samples / rate) / 1000


def reverb(wave: np.ndarray, rate: int) -> np.ndarray:
    """Convolve with `room_response`, without the delay of its direct path, and keep the level.

    The wave keeps its length and its RMS, so that the loudness does not change.
    """
    response, onset = room_response(rate)
    wet = fftconvolve(wave.astype(np.float64), response)[onset : onset + len(wave)]
    level = np.mean(np.square(wave, dtype=np.float64)) / np.mean(wet**2)
    return (wet * np.sqrt(level)).astype(np.float32)


@functools.cache
def room_response(rate: int) -> tuple[np.ndarray, int]:
    """Return the impulse response of the room at `rate` Hz, and the sample of its direct path.

    The walls' absorption is solved for until the RT60 measured on the response is 0.3 s
    (Schroeder's integration, a line through -5 to -35 dB); a formula for the walls misses it.
    """

    def excess(per_metre: float) -> float:
        response = _simulate(rate, per_metre)
        return pyroomacoustics.experimental.measure_rt60(response, rate, decay_db=30) - RT60

    response = _simulate(rate, brentq(excess, 0.05, 0.2, xtol=1e-4))
    delay = np.linalg.norm(np.subtract(TALKER, MICROPHONE)) / pyroomacoustics.constants.get("c")
    filters = pyroomacoustics.constants.get("frac_delay_length") // 2
    return response, round(delay * rate) + filters


def _simulate(rate: int, per_metre: float) -> np.ndarray:
    """Simulate the room by image sources alone, without random numbers.

    A wall absorbs 1 - exp(-per_metre * distance), by the distance to the opposite wall. Sound then
    decays equally fast along each axis, and the decay is nearly a straight line, so that RT60
    hardly depends on the range that it is read from.
    """
    pairs = (("west", "east"), ("south", "north"), ("floor", "ceiling"))
    walls = {
        wall: pyroomacoustics.Material(1 - np.exp(-per_metre * distance))
        for pair, distance in zip(pairs, ROOM, strict=True)
        for wall in pair
    }
    room = pyroomacoustics.ShoeBox(ROOM, fs=rate, materials=walls, max_order=ORDER)
    room.add_source(TALKER)
    room.add_microphone(MICROPHONE)
    room.compute_rir()
    return room.rir[0][0]


Condition = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
CONDITIONS: dict[str, Condition] = {  # wave, rate in Hz, the utterance's generator -> wave
    "clean": lambda wave, rate, rng: wave,
    "awgn20": lambda wave, rate, rng: awgn(wave, 20.0, rng),
    "awgn10": lambda wave, rate, rng: awgn(wave, 10.0, rng),
    "awgn0": lambda wave, rate, rng: awgn(wave, 0.0, rng),
    "mp3-128k": lambda wave, rate, rng: mp3(wave, rate),
    "reverb-0.3s": lambda wave, rate, rng: reverb(wave, rate),
}


def utterance_rng(utterance: str, seed: int) -> np.random.Generator:
    """Return an utterance's generator, which depends on its id and the seed alone."""
    digest = hashlib.sha256(f"{seed}/{utterance}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


@dataclass(frozen=True)
class DegradedReader:
    """Reads clips under a condition, for `feature_cache.load_frames`."""

    condition: str
    seed: int
    telephone: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown condition."""
        if self.condition not in CONDITIONS:
            known = ", ".join(CONDITIONS)
            raise ValueError(f"expected a condition of {known}, got {self.condition!r}")

    @property
    def key(self) -> list[object]:
        """What the waves depend on, for the cache's key. Only noise depends on the seed."""
        seed = self.seed if self.condition.startswith("awgn") else None
        versions = [pyroomacoustics.__version__, soundfile.__libsndfile_version__]
        room = [MP3_LEVEL, ROOM, TALKER, MICROPHONE, RT60, ORDER, versions]
        return [self.condition, seed, *room, *["telephone"] * self.telephone]

    def __call__(self, clip: Utterance) -> Clip:
        """Check the clean clip, degrade it and resample it to 16 kHz."""
        rng = utterance_rng(clip.id, self.seed)
        apply = CONDITIONS[self.condition]
        return read_clip(
            clip.path, lambda wave, rate: apply(wave, rate, rng), telephone=self.telephone
        )


def degraded_frames(
    corpus: Corpus,
    cache: str | Path,
    condition: str,
    seed: int,
    *,
    skip_bad: bool = False,
    progress: bool = True,
    telephone: bool = False,
) -> tuple[Corpus, Frames]:
    """Load frames as `load_frames` does, of each clip under a condition of `CONDITIONS`.

    The cache has one file per condition (and seed, for noise); "clean" has that of `load_frames`.
    """
    reader = DegradedReader(condition, seed, telephone)
    return load_frames(
        corpus, cache, skip_bad=skip_bad, progress=progress, telephone=telephone,
        reader=None if condition == "clean" else reader,
    )  # fmt: skip
