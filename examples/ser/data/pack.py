"""A corpus and its frames in one file, for a machine without the clips."""

from pathlib import Path

import numpy as np

from examples.atomic import write_atomic
from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.feature_cache import Frames, read_npz
from examples.ser.data.features import FEATURES, MFCC_39

FIELDS = ("id", "label", "speaker", "gender", "session")


def pack(corpus: Corpus, frames: Frames, path: Path, features: str = MFCC_39.name) -> None:
    """Write the corpus and its frames; `features` names their feature set."""
    clips = corpus.utterances
    blocks = [frames[clip.id] for clip in clips]
    table = {
        "name": np.array(corpus.name),
        "features": np.array(features),
        "labels": np.array(corpus.labels),
        "fold": np.array([clip.fold for clip in clips]),
        "lengths": np.array([block.shape[1] for block in blocks]),
        "static": np.concatenate(blocks, axis=1).astype(np.float16),  # (K, all frames)
    }
    table |= {field: np.array([getattr(clip, field) for clip in clips]) for field in FIELDS}
    with write_atomic(path) as file:
        np.savez_compressed(file, **table)


def _check_frames(static: np.ndarray, lengths: np.ndarray, rows: int) -> None:
    """Raise ValueError unless the clips' lengths share out all frames (K, F), which are finite."""
    if lengths.min(initial=1) < 1 or static.shape != (rows, lengths.sum()):
        raise ValueError(
            f"expected {rows} rows and the frames of {len(lengths)} clips, {lengths.sum()} in all, "
            f"got {static.shape}"
        )
    if not np.isfinite(static).all():
        raise ValueError("expected finite features, got NaN or infinite ones")


def unpack(path: Path, features: str = MFCC_39.name) -> tuple[Corpus, Frames]:
    """Read a packed corpus; the paths of its clips are names alone.

    Raises:
        CorpusError: the file cannot be read, has other features, or does not add up.
    """
    try:
        table = read_npz(path)
        columns = [table[field].tolist() for field in (*FIELDS, "fold")]
        ends, static = np.cumsum(table["lengths"]), table["static"].astype(np.float32)
        if table["features"] != features:
            raise ValueError(f"expected {features} features, got {table['features']}")
        _check_frames(static, table["lengths"], FEATURES[features].cached_rows)
        if sizes := {len(column) for column in columns} - {len(ends)}:
            raise ValueError(f"expected {len(ends)} clips in each column, got {max(sizes)}")
    except (OSError, ValueError, KeyError) as error:
        why = f"no column {error}" if isinstance(error, KeyError) else f"{error}"
        fault = f"{path}: expected a packed corpus, got another file ({why}); "
        fault += "run examples.ser.packed"
        raise CorpusError("packed", [fault]) from error
    clips = tuple(
        Utterance(name, Path(name), label, speaker, gender, session, fold)
        for name, label, speaker, gender, session, fold in zip(*columns, strict=True)
    )
    blocks = np.split(static, ends[:-1], axis=1)
    frames = {clip.id: block for clip, block in zip(clips, blocks, strict=True)}
    return Corpus(str(table["name"]), tuple(table["labels"].tolist()), clips), frames
