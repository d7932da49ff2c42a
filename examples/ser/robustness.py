"""Tables 15 to 18: the trained cells of the grid on degraded speech.

    python -m examples.ser.robustness --ravdess path/to/ravdess --runs runs/grid

Every cell of the baseline and of AAM + ICASA whose checkpoint is in --runs is scored under each
condition, with the feature statistics of its clean training data, and the posteriors are added to
the cell's file in results/grid. Cells that already have them are skipped. A condition that the
clips' rate does not allow, as MP3 at 128 kbps does not go with 8 kHz, is left out with a note.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from examples.errors import UserError, user_errors
from examples.provenance import git_commit, provenance
from examples.ser.data.corpora import Corpus, CorpusError, grouped
from examples.ser.data.degrade import CONDITIONS, degraded_frames
from examples.ser.data.digests import digests
from examples.ser.data.feature_cache import Frames
from examples.ser.data.load import read
from examples.ser.data.segments import make_segments
from examples.ser.data.splits import split
from examples.ser.data.standardize import Standardizer
from examples.ser.grid.cells import GRID, OURS, corpus_in_names, read_cells, write_cell
from examples.ser.run.checkpoint import CHECKPOINT
from examples.ser.run.evaluate import utterance_posteriors
from examples.ser.run.flags import add_corpus
from examples.ser.run.record import check_data, load_trained

SEED = 987654  # of the noise, the same for every model


def evaluate(
    record: Mapping[str, Any], folder: Path, corpus: Corpus, frames: Mapping[str, Frames]
) -> list[dict[str, Any]]:
    """Return the clips of a record with a posterior per condition."""
    args, net = load_trained(record, folder)
    sides = split(corpus, args.fold, args.validation).sides()
    clips = [dict(clip) for clip in record["utterances"]]
    if [u.id for u in sides["test"]] != [clip["id"] for clip in clips]:
        raise UserError(
            f"{folder}: expected the test clips of fold {args.fold}, got others; give its corpus"
        )
    check_data(record, digests(corpus, frames["clean"], sides), folder)
    standardizer = Standardizer(args.normalize).fit(sides["train"], frames["clean"])
    for condition, degraded in frames.items():
        test = make_segments(
            corpus, sides["test"], degraded, standardizer, stride_s=args.test_stride, tail=args.tail
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16-mixed"):
            _, posterior = utterance_posteriors(net, test, len(corpus.labels))
        for clip, row in zip(clips, posterior.numpy().round(5).tolist(), strict=True):
            clip[condition] = row
    return clips


def degrade(corpus: Corpus, args: argparse.Namespace) -> dict[str, Frames]:
    """Return the frames of each condition but the clean one; note those that cannot be had."""
    frames = {}
    for condition in CONDITIONS:
        if condition == "clean":
            continue
        try:
            _, frames[condition] = degraded_frames(
                corpus, args.cache, condition, SEED, progress=not args.quiet,
                telephone=args.telephone,
            )  # fmt: skip
        except CorpusError as error:
            print(f"note: {condition} is left out: {grouped(error.problems)[0]}", flush=True)
    return frames


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_corpus(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"))
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--variants", nargs="+", default=list(OURS))
    args = parser.parse_args(argv)
    if args.packed:
        parser.error("expected clips to degrade, got --packed features; give the corpus")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Score every cell that has a checkpoint and no scores yet."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    corpus, clean = read(args)
    frames = {"clean": clean} | degrade(corpus, args)
    facts = provenance("examples.ser.robustness", argv, SEED, torch.device("cpu")) | {
        "commit": git_commit()
    }
    ends = Counter[str]()
    mine = (corpus_in_names(corpus.name), "speaker", True)
    for path, (cell, record) in read_cells(args.grid).items():
        if (cell.corpus, cell.protocol, cell.is_paper_model) != mine:
            continue
        folder = args.runs / cell.name
        if cell.variant not in args.variants:
            continue
        if "degraded" in record:
            ends["scored before"] += 1
        elif not (folder / CHECKPOINT).exists():
            ends[f"without a checkpoint in {args.runs}"] += 1
        else:
            clips = evaluate(record, folder, corpus, frames)
            record |= {"utterances": clips, "degraded": facts}
            write_cell(json.dumps(record, indent=0).encode(), path)
            ends["scored"] += 1
            print(cell.name, flush=True)
    counts = ", ".join(f"{number} {end}" for end, number in ends.items())
    print(f"cells of {corpus.name} in {args.grid}: {counts or 'none'}")


if __name__ == "__main__":
    with user_errors(
        "the cells scored so far have their scores; the same command scores the others"
    ):
        main()
