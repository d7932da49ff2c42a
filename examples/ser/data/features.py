"""Features: frames once per utterance (cached), then standardised segments (Algorithm 2).

The paper's are 39 MFCC in segments of 2 s, 39 x 200. Frame i of an utterance covers samples 160 i
to 160 i + 399 at 16 kHz (no centring), so the static frames of a 2 s segment that starts on a frame
are a slice of the utterance's, and nothing is extracted twice. Deltas are taken per segment, as if
its wave had been cut out first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import librosa
import numpy as np
import soxr
import torch
from torch import Tensor
from tqdm import tqdm

from examples.ser.data.audio import SAMPLE_RATE, SHORTEST, SILENCE, Clip, ClipError, read_clip
from examples.ser.data.corpora import Corpus, Utterance

MFCC = {"n_mfcc": 13, "n_mels": 26}
FRAMING = {"n_fft": 400, "win_length": 400, "hop_length": 160, "window": "hamming"}  # 25 and 10 ms
FRAMES_PER_S = SAMPLE_RATE // 160
DELTA_WIDTH = 9  # frames

Frames = dict[str, np.ndarray]  # utterance id -> frames (K, F) float32, as a FeatureSet extracts


def mfcc(signal: np.ndarray) -> np.ndarray:
    """Return static MFCC (13, F) float32 of a signal (n,) at 16 kHz, F = 1 + (n - 400) // 160."""
    power = librosa.feature.melspectrogram(
        y=signal, sr=SAMPLE_RATE, n_mels=MFCC["n_mels"], center=False, power=2.0, **FRAMING
    )
    # top_db=None: a floor below the utterance's loudest frame would tie all frames together.
    decibel = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
    return librosa.feature.mfcc(S=decibel, n_mfcc=MFCC["n_mfcc"]).astype(np.float32)


def add_deltas(static: np.ndarray) -> np.ndarray:
    """Append delta and delta-delta: (..., 13, F) -> (..., 39, F), 9 frames wide, edges repeated."""
    orders = [
        librosa.feature.delta(static, width=DELTA_WIDTH, order=order, mode="nearest")
        for order in (1, 2)
    ]
    return np.concatenate([static, *orders], axis=-2)


@dataclass(frozen=True)
class FeatureSet:
    """What is taken of a clip, and how long its segments are."""

    name: str
    extract: Callable[[np.ndarray], np.ndarray]  # signal (n,) at 16 kHz -> frames (K, F) float32
    parameters: Sequence[object]  # what the frames follow from, fit for JSON
    kept: int  # K, coefficients of a frame that are cached
    complete: Callable[[np.ndarray], np.ndarray]  # (..., K, F) -> (..., rows, F)
    rows: int  # of a segment
    window: int  # frames that a segment spans
    width: int  # frames of a segment, zero after the window


# 13 static, 13 delta, 13 delta-delta; 198 frames are full within 2 s, the paper zero-pads to 200.
MFCC_39 = FeatureSet("mfcc", mfcc, (MFCC, FRAMING), 13, add_deltas, 39, 198, 200)


class Reader(Protocol):
    """Reads a clip in another way than `read_clip`, as `degrade.DegradedReader` does."""

    @property
    def key(self) -> Sequence[object]:
        """What the signals follow from beside the files, fit for JSON."""

    def __call__(self, clip: Utterance) -> Clip:
        """Return the clip, or raise ClipError."""


def load_frames(
    corpus: Corpus,
    cache: str | Path,
    *,
    skip_bad: bool = False,
    progress: bool = True,
    reader: Reader | None = None,
    features: FeatureSet = MFCC_39,
) -> tuple[Corpus, Frames]:
    """Check every clip and return the settled corpus and its frames, from the cache if warm.

    A cold run reads each clip once, for the check and the features together. A warm one reads no
    audio: the findings of the check are cached too. Any change of a file or parameter is cold.
    A `reader` reads the clips in the place of `read_clip` and has a cache of its own.

    Raises:
        CorpusError: problems of names, tables and audio, all in one list (not with `skip_bad`).
    """
    path = _cache_path(corpus, Path(cache), reader, features)
    if path.exists():
        with np.load(path) as file:
            table = dict(file)
    else:
        table = _extract(corpus.utterances, progress, reader, features)
        _write(path, table)
    ends = np.cumsum(table["lengths"])
    frames, found, bad = {}, [], []
    for i, (clip, fault) in enumerate(zip(corpus.utterances, table["faults"], strict=True)):
        if fault:
            found.append(f"{clip.path}: {fault}")
            bad.append(clip.id)
        else:
            frames[clip.id] = table["static"][:, ends[i] - table["lengths"][i] : ends[i]]
    corpus = corpus.settle(found, bad, skip_bad=skip_bad)
    return replace(corpus, notes=corpus.notes + _audio_notes(table)), frames


def _cache_path(corpus: Corpus, cache: Path, reader: Reader | None, features: FeatureSet) -> Path:
    """Say where the features of these very files lie; the folder is made and must be writable."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise ValueError(f"cache folder {cache}: not writable ({error}); name another") from error
    stats = [(clip.id, clip.path.stat()) for clip in corpus.utterances]
    files = [(clip, stat.st_size, stat.st_mtime_ns) for clip, stat in stats]
    limits = [SAMPLE_RATE, SHORTEST, SILENCE, librosa.__version__, soxr.__version__]
    settings = [*features.parameters, limits, files, *([reader.key] if reader else [])]
    key = json.dumps(settings)
    name = re.sub(r"\W", "_", corpus.name)
    return cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"


def _extract(
    clips: Sequence[Utterance], progress: bool, reader: Reader | None, features: FeatureSet
) -> dict[str, np.ndarray]:
    """Read each clip once: its frames, or its fault, and what the notes report."""
    static, faults, facts = [], [], []
    for clip in tqdm(clips, desc=features.name, unit="clip", disable=None if progress else True):
        try:
            audio = reader(clip) if reader else read_clip(clip.path)
        except ClipError as error:
            static.append(np.zeros((features.kept, 0), np.float32))
            faults.append(str(error))
            facts.append((0, 0, 0.0))
        else:
            static.append(features.extract(audio.signal))
            faults.append("")
            facts.append((audio.rate, audio.channels, audio.seconds))
    rate, channels, seconds = (np.array(column) for column in zip(*facts, strict=True))
    return {
        "static": np.concatenate(static, axis=1),  # (K, all frames)
        "lengths": np.array([block.shape[1] for block in static]),
        "faults": np.array(faults),
        "ids": np.array([clip.id for clip in clips]),
        "rate": rate,
        "channels": channels,
        "seconds": seconds,
    }


def _write(path: Path, table: dict[str, np.ndarray]) -> None:
    """Write beside and rename, so that a second process sees the whole file or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **table)
    os.replace(file.name, path)  # noqa: PTH105 - named for what it is: the atomic step


def _audio_notes(table: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Report durations, odd sample rates and mixed-down clips, of the clips that were read."""
    good = table["lengths"] > 0
    ids, seconds = table["ids"][good], table["seconds"][good]
    rate, channels = table["rate"][good], table["channels"][good]
    usual, _ = Counter(rate.tolist()).most_common(1)[0]
    notes = [
        f"{len(ids)} clips at {usual} Hz, mean {seconds.mean():.2f} s, "
        f"from {seconds.min():.2f} s ({ids[seconds.argmin()]}) "
        f"to {seconds.max():.2f} s ({ids[seconds.argmax()]})"
    ]
    if odd := [f"{i} ({r} Hz)" for i, r in zip(ids, rate, strict=True) if r != usual]:
        notes.append(f"{len(odd)} clips at another sample rate: {', '.join(odd)}")
    if mixed := ids[channels > 1].tolist():
        notes.append(f"{len(mixed)} clips of several channels, averaged: {', '.join(mixed)}")
    return tuple(notes)


def segment_starts(
    frames: int, stride_s: float, tail: str = "pad", window: int = MFCC_39.window
) -> np.ndarray:
    """Return the first frames (S,) of the windows over an utterance of `frames` frames.

    A window starts every `stride_s` seconds until one reaches the end. The last may run past it:
    ``tail="pad"`` keeps it with the frames there are, ``"drop"`` does not. An utterance shorter
    than a window always gives one segment.
    """
    stride = round(stride_s * FRAMES_PER_S)
    if not 1 <= stride <= window:
        raise ValueError(f"stride {stride_s} s: wanted 0.01 to {window / FRAMES_PER_S} s")
    if tail not in {"pad", "drop"}:
        raise ValueError(f"tail {tail!r}: wanted 'pad' or 'drop'")
    if frames < 1:
        raise ValueError(f"{frames} frames: wanted 1 or more; the clip is too short")
    beyond = max(0, frames - window)
    more = -(-beyond // stride) if tail == "pad" else beyond // stride
    return np.arange(more + 1) * stride


class Standardizer:
    """Subtract the mean and divide by the standard deviation of each row of a feature set.

    `mode` says whose: "train" (the training utterances), "utterance" or "speaker" (each one's
    own; the latter by all that the speaker said, on whatever side of a split, but no label), or
    "none". Statistics are over whole utterances, so overlapping segments count nothing twice.
    """

    MODES = ("train", "none", "utterance", "speaker")

    def __init__(self, mode: str = "train", features: FeatureSet = MFCC_39) -> None:
        if mode not in self.MODES:
            raise ValueError(f"normalisation {mode!r}: wanted one of {', '.join(self.MODES)}")
        self.mode = mode
        self.features = features
        self.mean = np.zeros(features.rows, np.float32)
        self.std = np.ones(features.rows, np.float32)
        self.fitted_on: frozenset[str] = frozenset()

    def fit(self, utterances: Sequence[Utterance], frames: Frames) -> Standardizer:
        """Take the statistics of these training utterances (mode "train"; else there are none)."""
        if self.mode == "train":
            self.mean, self.std = self._moments([frames[u.id] for u in utterances])
            self.fitted_on = frozenset(u.id for u in utterances)
        return self

    def check_held_out(self, utterances: Sequence[Utterance]) -> None:
        """Refuse validation or test utterances whose statistics were used in fitting."""
        if seen := sorted(u.id for u in utterances if u.id in self.fitted_on):
            named = ", ".join(seen[:5]) + (f" and {len(seen) - 5} more" if len(seen) > 5 else "")
            raise ValueError(f"standardizer was fitted on held-out {named}; fit on train alone")

    def statistics(
        self, utterances: Sequence[Utterance], frames: Frames, everyone: Sequence[Utterance]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation (U, rows) to apply to each of the utterances.

        `everyone` is the corpus, where mode "speaker" finds a speaker's other utterances.
        """
        if self.mode == "train" and not self.fitted_on:
            raise ValueError("standardizer not fitted; call fit(split.train, frames) first")
        if self.mode in {"train", "none"}:
            return tuple(np.tile(value, (len(utterances), 1)) for value in (self.mean, self.std))
        key = {"utterance": "id", "speaker": "speaker"}[self.mode]
        wanted = {getattr(u, key) for u in utterances}
        groups = defaultdict(list)
        for u in everyone:
            if getattr(u, key) in wanted:
                groups[getattr(u, key)].append(frames[u.id])
        moments = {group: self._moments(blocks) for group, blocks in groups.items()}
        chosen = [moments[getattr(u, key)] for u in utterances]
        return np.stack([mean for mean, _ in chosen]), np.stack([std for _, std in chosen])

    def _moments(self, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (rows,) over the frames of some utterances."""
        values = np.concatenate([self.features.complete(block) for block in blocks], axis=1)
        std = values.std(axis=1, dtype=np.float64)
        std[std < 1e-6] = 1.0  # a constant coefficient says nothing: leave its zeros alone
        return values.mean(axis=1, dtype=np.float64).astype(np.float32), std.astype(np.float32)


@dataclass(frozen=True)
class Segments:
    """Segments of utterances, ready for the model. S segments."""

    x: Tensor  # (S, 1, rows, width) float32: coefficient, frame; zero after the valid frames
    y: Tensor  # (S,) index in corpus.labels
    utterance: Tensor  # (S,) index in corpus.utterances
    speaker: Tensor  # (S,) index in corpus.speakers
    valid: Tensor  # (S,) frames that are no padding

    def __len__(self) -> int:
        """Count the segments."""
        return len(self.y)

    def to(self, device: torch.device) -> Segments:
        """Copy to `device`."""
        return Segments(**{name: value.to(device) for name, value in vars(self).items()})


def make_segments(
    corpus: Corpus,
    utterances: Sequence[Utterance],
    frames: Frames,
    standardizer: Standardizer,
    *,
    stride_s: float,
    tail: str = "pad",
    held_out: bool = True,
) -> Segments:
    """Cut utterances of `corpus` into standardised segments, in their order.

    `held_out=False` only for the training side: otherwise an utterance that the standardizer was
    fitted on is refused.
    """
    if held_out:
        standardizer.check_held_out(utterances)
    features = standardizer.features
    mean, std = standardizer.statistics(utterances, frames, corpus.utterances)
    owner, windows = [], defaultdict(list)  # valid frames -> [(segment, static window)]
    for i, u in enumerate(utterances):
        for start in segment_starts(frames[u.id].shape[1], stride_s, tail, features.window):
            window = frames[u.id][:, start : start + features.window]
            windows[window.shape[1]].append((len(owner), window))
            owner.append(i)
    # DIFF: Algorithm 2 zero-pads the wave; digital silence would be -100 dB in every mel band, an
    # outlier. We pad after standardisation, where zero is the mean ("none": a literal zero).
    x = np.zeros((len(owner), 1, features.rows, features.width), np.float32)
    owners, valid = np.array(owner), np.zeros(len(owner), np.int64)
    for length, group in windows.items():
        index = np.array([segment for segment, _ in group])
        block = features.complete(np.stack([window for _, window in group]))
        scaled = (block - mean[owners[index], :, None]) / std[owners[index], :, None]
        x[index, 0, :, :length] = scaled
        valid[index] = length
    place = {u.id: (n, corpus.labels.index(u.label)) for n, u in enumerate(corpus.utterances)}
    voices = {speaker: n for n, speaker in enumerate(corpus.speakers)}
    facts = [(*place[u.id], voices[u.speaker]) for u in utterances]
    utterance, y, speaker = torch.tensor(facts)[torch.from_numpy(owners)].T.contiguous()
    return Segments(torch.from_numpy(x), y, utterance, speaker, torch.from_numpy(valid))
