"""A corpus and its frames in one file, for a machine without the clips."""

from pathlib import Path

import numpy as np

from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.features import MFCC_39
from examples.ser.data.frames import Frames

FIELDS = ("id", "label", "speaker", "gender", "session")


def pack(corpus: Corpus, frames: Frames, path: Path, features: str = MFCC_39.name) -> None:
    """Write the corpus and its frames; `features` names their feature set."""
    clips = corpus.utterances
    blocks = [frames[clip.id] for clip in clips]
    np.savez_compressed(
        path,
        name=np.array(corpus.name),
        features=np.array(features),
        labels=np.array(corpus.labels),
        fold=np.array([clip.fold for clip in clips]),
        lengths=np.array([block.shape[1] for block in blocks]),
        static=np.concatenate(blocks, axis=1).astype(np.float16),  # (K, all frames)
        **{field: np.array([getattr(clip, field) for clip in clips]) for field in FIELDS},
    )


def unpack(path: Path, features: str = MFCC_39.name) -> tuple[Corpus, Frames]:
    """Read a packed corpus; the paths of its clips are names alone.

    Raises:
        CorpusError: the file cannot be read, or has other features.
    """
    try:
        with np.load(path) as file:
            table = dict(file)
        columns = [table[field].tolist() for field in (*FIELDS, "fold")]
        ends, static = np.cumsum(table["lengths"]), table["static"].astype(np.float32)
        if table["features"] != features:
            raise ValueError(f"expected {features} features, got {table['features']}")
    except (OSError, ValueError, KeyError) as error:
        fault = f"{path}: expected a packed corpus, got {error!r}; run examples.ser.packed"
        raise CorpusError("packed", [fault]) from error
    clips = tuple(
        Utterance(name, Path(name), label, speaker, gender, session, fold)
        for name, label, speaker, gender, session, fold in zip(*columns, strict=True)
    )
    blocks = np.split(static, ends[:-1], axis=1)
    frames = {clip.id: block for clip, block in zip(clips, blocks, strict=True)}
    return Corpus(str(table["name"]), tuple(table["labels"].tolist()), clips), frames
