"""A corpus in one small file: its names and frames, for a machine that lacks the clips.

    python -m examples.ser.packed --ravdess path/to/ravdess --out ravdess.npz
    python -m examples.ser.reproduce --packed ravdess.npz --table 8

The MFCC of RAVDESS take 12 MB, as frames are kept in half precision: rows from it say `--packed`.
The file holds features of the clips and falls under their licence.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.ser.data.corpora import Corpus, CorpusError, Utterance, load_manifest, load_ravdess
from examples.ser.data.features import MFCC_39, Frames, load_frames
from examples.ser.data.prosody import FEATURES

FIELDS = ("id", "label", "speaker", "gender", "session")


def pack(corpus: Corpus, frames: Frames, path: Path, features: str = MFCC_39.name) -> None:
    """Write the corpus and its frames, which are of the feature set of that name."""
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
    """Read what `pack` wrote; the clips' paths are only names.

    Raises:
        CorpusError: no such file, another one, or one of other features.
    """
    try:
        with np.load(path) as file:
            table = dict(file)
        columns = [table[field].tolist() for field in (*FIELDS, "fold")]
        ends, static = np.cumsum(table["lengths"]), table["static"].astype(np.float32)
        if table["features"] != features:
            raise ValueError(f"wanted {features} features, got {table['features']}")
    except (OSError, ValueError, KeyError) as error:
        fault = f"{path}: is no packed corpus ({error!r}); write it by examples.ser.packed"
        raise CorpusError("packed", [fault]) from error
    clips = tuple(
        Utterance(name, Path(name), label, speaker, gender, session, fold)
        for name, label, speaker, gender, session, fold in zip(*columns, strict=True)
    )
    blocks = np.split(static, ends[:-1], axis=1)
    frames = {clip.id: block for clip, block in zip(clips, blocks, strict=True)}
    return Corpus(str(table["name"]), tuple(table["labels"].tolist()), clips), frames


def main(argv: Sequence[str] | None = None) -> None:
    """Pack a corpus."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--manifest", type=Path, metavar="CSV")
    parser.add_argument("--features", choices=FEATURES, default=MFCC_39.name)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    corpus = load_ravdess(args.ravdess) if args.ravdess else load_manifest(args.manifest)
    corpus, frames = load_frames(corpus, args.cache, features=FEATURES[args.features])
    pack(corpus, frames, args.out, args.features)
    print(f"{args.out}: {len(corpus.utterances)} clips, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
