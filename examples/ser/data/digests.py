"""Digests of what a run is trained and scored on, by which a resumed run knows its data."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.feature_cache import Frames


def digests(
    corpus: Corpus, frames: Frames, sides: Mapping[str, Sequence[Utterance]]
) -> dict[str, str]:
    """Return digests of the features, and of the ids, labels and speakers of each side, in order.

    They are of contents, so that a corpus may be renamed and moved; which clips are on which side
    stands for the folds. Features count in half precision, in which a packed corpus has them.
    """
    found = {"features": _frames_digest(frames)}
    names = [clip.id for clip in corpus.utterances]
    below = dict(zip(names, _below_common_folder(names), strict=True))
    for side, clips in sides.items():
        found[f"ids of {side}"] = _digest([below[clip.id] for clip in clips])
        found[f"labels of {side}"] = _digest([clip.label for clip in clips])
        found[f"speakers of {side}"] = _digest([clip.speaker for clip in clips])
    return found


def differing(there: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the digests that differ, or that one of the two lacks."""
    return [name for name in there | now if there.get(name) != now.get(name)]


def _below_common_folder(ids: Sequence[str]) -> list[str]:
    """Return ids, which are paths in a manifest, without the folders that all have in common."""
    parts = [PurePosixPath(name).parts for name in ids]
    levels = zip(*(part[:-1] for part in parts), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    return ["/".join(part[common:]) for part in parts]


def _digest(values: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _frames_digest(frames: Frames) -> str:
    digest = hashlib.sha256()
    for block in frames.values():
        digest.update(f"{block.shape}".encode())
        with np.errstate(over="ignore"):
            digest.update(block.astype(np.float16).tobytes())
    return digest.hexdigest()
