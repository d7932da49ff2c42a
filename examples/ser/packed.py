"""Pack a corpus into one small file: its names and frames, for a machine without the clips.

    python -m examples.ser.packed --ravdess path/to/ravdess --out ravdess.npz
    python -m examples.ser.reproduce --packed ravdess.npz --table 8

The MFCC of RAVDESS take 12 MB, for frames are stored in half precision; rows of such a run have
`--packed` in their command. The file contains features of the clips and falls under their licence.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from examples.errors import user_errors
from examples.ser.data.feature_cache import load_frames
from examples.ser.data.features import FEATURES, MFCC_39
from examples.ser.data.manifest import load_manifest
from examples.ser.data.pack import pack
from examples.ser.data.ravdess import load_ravdess


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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pack(corpus, frames, args.out, args.features)
    print(f"{args.out}: {len(corpus.utterances)} clips, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    with user_errors():
        main()
