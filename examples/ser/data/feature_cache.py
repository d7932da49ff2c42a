"""The feature cache: frames of every utterance, extracted once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import librosa
import numpy as np
import soxr

from examples.atomic import write_atomic
from examples.errors import UserError, room_for
from examples.progress import progress as show_progress
from examples.ser.data.audio import (
    LONGEST,
    LOUDEST,
    SAMPLE_RATE,
    SHORTEST,
    SILENCE,
    Clip,
    ClipError,
    read_clip,
)
from examples.ser.data.corpora import Corpus, Utterance, few
from examples.ser.data.features import MFCC_39, FeatureSet

Frames = dict[str, np.ndarray]  # utterance id -> frames (K, F) float32, as a FeatureSet extracts


class Reader(Protocol):
    """Reads a clip in place of `read_clip`, as `degrade.DegradedReader` does."""

    @property
    def key(self) -> Sequence[object]:
        """What the signals depend on besides the files, fit for JSON: part of the cache's key."""

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
    telephone: bool = False,
) -> tuple[Corpus, Frames]:
    """Check every clip; return the corpus without problems, and its frames.

    Without a cache file each clip is read once, for the check and the features together; with one
    no audio is decoded, for the problems found are cached too. The cache file is found by the ids
    and the bytes of the clips and by the parameters, wherever the clips are and whenever they were
    written; a damaged one is made again, with a note. A `reader` replaces `read_clip` and has cache
    files of its own. `telephone` takes clips from 8 kHz on.

    Raises:
        CorpusError: problems of names, tables and audio, all in one list (not with `skip_bad`).
        UserError: the cache is not there and cannot be written.
    """
    reader = reader or FileReader(telephone)
    path = _cache_path(corpus, Path(cache), reader, features)
    table, note = _read_cache(path, len(corpus.utterances))
    if table is None:
        _check_writable(path.parent)
        table = _extract(corpus.utterances, progress, reader, features)
        size = sum(column.nbytes for column in table.values())
        with room_for(path, size), write_atomic(path) as file:
            np.savez(file, **table)
    ends = np.cumsum(table["lengths"])
    frames, found, bad = {}, [], []
    for i, (clip, fault) in enumerate(zip(corpus.utterances, table["faults"], strict=True)):
        if fault:
            found.append(f"{clip.path}: {fault}")
            bad.append(clip.id)
        else:
            frames[clip.id] = table["static"][:, ends[i] - table["lengths"][i] : ends[i]]
    corpus = corpus.raise_or_skip(found, bad, skip_bad=skip_bad)
    return replace(corpus, notes=corpus.notes + note + _audio_notes(table)), frames


@dataclass(frozen=True)
class FileReader:
    """Reads the clips as they are."""

    telephone: bool = False

    @property
    def key(self) -> Sequence[object]:
        """What is read otherwise than by default; nothing keeps the cache files of before."""
        return ["telephone"] * self.telephone

    def __call__(self, clip: Utterance) -> Clip:
        """Return the clip, or raise ClipError."""
        return read_clip(clip.path, telephone=self.telephone)


def _read_cache(path: Path, clips: int) -> tuple[dict[str, np.ndarray] | None, tuple[str, ...]]:
    """Return a whole cache file, else None, and a note if it is damaged."""
    if not path.exists():
        return None, ()
    try:
        table = read_npz(path)
        if (len(table["lengths"]), table["lengths"].sum()) == (clips, table["static"].shape[1]):
            return table, ()
        fault = "its lengths do not add up"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        fault = str(error)
    return None, (f"the feature cache {path} was damaged ({fault}) and is made again",)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file.

    Raises:
        ValueError: it is no such file. NumPy's own message would advise to run the code in it.
    """
    # np.load of a path would leave a damaged file open.
    with path.open("rb") as content:
        if not zipfile.is_zipfile(content):
            raise ValueError("no .npz file")
        content.seek(0)
        with np.load(content) as file:
            return dict(file)


def _check_writable(folder: Path) -> None:
    """Create the folder of the cache; refuse one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"expected a writable cache folder, got {folder} ({error}); give another --cache"
        ) from error


def _cache_path(corpus: Corpus, cache: Path, reader: Reader, features: FeatureSet) -> Path:
    """Return the cache file of these clips and settings."""
    files = [(clip.id, _file_digest(clip.path)) for clip in corpus.utterances]
    limits = [SAMPLE_RATE, SHORTEST, LONGEST, SILENCE, LOUDEST]
    versions = [librosa.__version__, soxr.__version__]
    settings = [
        *features.parameters,
        limits,
        versions,
        files,
        *([reader.key] if reader.key else []),
    ]
    key = json.dumps(settings)
    name = re.sub(r"\W", "_", corpus.name)[:100]  # a file's name ends at 255 bytes
    return cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, and "" for one that cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:  # `read_clip` says what is wrong
        return ""
    return digest.hexdigest()


def _extract(
    clips: Sequence[Utterance], progress: bool, reader: Reader, features: FeatureSet
) -> dict[str, np.ndarray]:
    """Read each clip once: its frames or its fault, and the facts for the notes."""
    static, faults, facts = [], [], []
    for clip in show_progress(clips, f"reading audio, {features.name}", "clip", quiet=not progress):
        try:
            audio = reader(clip)
            block = _finite_frames(audio.signal, features)
        except ClipError as error:
            static.append(np.zeros((features.cached_rows, 0), np.float32))
            faults.append(str(error))
            facts.append((0, 0, 0.0))
        else:
            static.append(block)
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


def _finite_frames(signal: np.ndarray, features: FeatureSet) -> np.ndarray:
    """Extract frames; raise ClipError if they are not finite."""
    frames = features.extract(signal)
    if np.isfinite(frames).all():
        return frames
    raise ClipError(
        f"expected finite {features.name} features, got NaN or infinite ones from a wave with peak "
        f"{np.abs(signal).max():.3g}; scale it to -1 to 1"
    )


def _audio_notes(table: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Report durations, unusual sample rates and clips of several channels."""
    good = table["lengths"] > 0
    ids, seconds = table["ids"][good], table["seconds"][good]
    rate, channels = table["rate"][good], table["channels"][good]
    usual, _ = Counter(rate.tolist()).most_common(1)[0]
    same = int((rate == usual).sum())
    shown = f"at {usual} Hz" if same == len(ids) else f"({same} at {usual} Hz)"
    notes = [
        f"{len(ids)} clips {shown}, mean {seconds.mean():.2f} s, "
        f"from {seconds.min():.2f} s ({ids[seconds.argmin()]}) "
        f"to {seconds.max():.2f} s ({ids[seconds.argmax()]})"
    ]
    if odd := [f"{i} ({r} Hz)" for i, r in zip(ids, rate, strict=True) if r != usual]:
        notes.append(f"{len(odd)} clips at another sample rate: {few(odd)}")
    if mixed := ids[channels > 1].tolist():
        notes.append(f"{len(mixed)} clips of several channels, averaged: {few(mixed)}")
    return tuple(notes)
