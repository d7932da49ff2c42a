"""Tables 15 to 18: the trained cells of the grid on degraded speech.

    python -m examples.ser.robustness --ravdess path/to/ravdess --runs runs/grid

Every cell of the baseline and of AAM + ICASA that has its checkpoint in --runs is scored under each
condition, with the features' statistics of its clean training data, and the posteriors are added to
the cell's file in results/grid. Cells that have them already are skipped.
"""

import argparse
import gzip
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from examples.ser import options
from examples.ser.corpora import Corpus, split
from examples.ser.data import read_corpus
from examples.ser.degrade import CONDITIONS, degraded_frames
from examples.ser.evaluate import utterance_posteriors
from examples.ser.features import Frames, Standardizer, load_frames, make_segments
from examples.ser.macnn import MACNN
from examples.ser.reproduce import GRID, OURS, Cell, compress

SEED = 987654  # of the noise, the same for every model


def evaluate(
    record: Mapping[str, Any], checkpoint: Path, corpus: Corpus, frames: Mapping[str, Frames]
) -> dict[str, Any]:
    """Return the record with a posterior per utterance and condition."""
    _, _, _, *argv = shlex.split(record["run"]["command"])  # python -m examples.ser.train ...
    args = options.parse(argv)
    net = MACNN(
        len(corpus.labels), attention=args.attention, places=args.places, head=args.head,
        padding=args.padding,
    )  # fmt: skip
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    parts = split(corpus, args.fold)
    standardizer = Standardizer(args.normalize).fit(parts.train, frames["clean"])
    clips = [dict(clip) for clip in record["utterances"]]
    if [u.id for u in parts.test] != [clip["id"] for clip in clips]:
        raise ValueError(f"{checkpoint}: its test clips are not those of fold {args.fold}")
    for condition, degraded in frames.items():
        test = make_segments(
            corpus, parts.test, degraded, standardizer, stride_s=args.test_stride, tail=args.tail
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16-mixed"):
            _, posterior = utterance_posteriors(net, test, len(corpus.labels))
        for clip, row in zip(clips, posterior.numpy().round(5).tolist(), strict=True):
            clip[condition] = row
    return {**record, "utterances": clips}


def main(argv: Sequence[str] | None = None) -> None:
    """Score every cell that has a checkpoint and no scores yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--manifest", type=Path, metavar="CSV")
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--variants", nargs="+", default=list(OURS))
    args = parser.parse_args(argv)
    args.iemocap = None
    corpus, clean = load_frames(read_corpus(args), args.cache)
    frames = {"clean": clean}
    for condition in CONDITIONS:
        if condition != "clean":
            _, frames[condition] = degraded_frames(corpus, args.cache, condition, SEED)
    for path in sorted(args.grid.glob("*.json.gz")):
        cell = Cell.parse(path.name.removesuffix(".json.gz"))
        checkpoint = args.runs / cell.name / "checkpoint.pt"
        record = json.loads(gzip.decompress(path.read_bytes()))
        todo = cell.protocol == "speaker" and cell.variant in args.variants and checkpoint.exists()
        if todo and "clean" not in record["utterances"][0]:
            record = evaluate(record, checkpoint, corpus, frames)
            compress(json.dumps(record, indent=0).encode(), path)
            print(cell.name, flush=True)


if __name__ == "__main__":
    main()
