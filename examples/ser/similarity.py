"""Table 5: whether acoustic similarity follows the emotion or the speaker.

    python -m examples.ser.similarity --ravdess path/to/ravdess

For every threshold T and representation of a segment: the share of pairs that Eq. 1 admits, the
shares of those with equal label and with equal speaker, with their chance levels, and the share of
samples that find a partner in a batch. Pairs within one utterance are left out. Writes
results/table05.csv.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from examples.errors import user_errors
from examples.provenance import git_commit, provenance, write_csv
from examples.ser.data.load import read
from examples.ser.data.segments import Segments, make_segments
from examples.ser.data.standardize import Standardizer
from examples.ser.grid.cells import RESULTS, THRESHOLDS
from examples.ser.grid.paper import read_paper
from examples.ser.run.flags import add_corpus
from icasa import AAM

# Statistics for the standardisation ("all": of the whole corpus), and what is compared.
MODES = {"none": "none", "all": "train", "speaker": "speaker"}
REPRESENTATIONS = [(n, r) for n in MODES for r in ("flat", "mean")]
BATCH = 32


def draw(data: Segments, count: int, seed: int) -> Segments:
    """Return `count` of the segments, or all of them."""
    index = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return replace(data, **{name: value[index] for name, value in vars(data).items()})


def partner_rate(aam: AAM, data: Segments) -> float:
    """Return the share of samples with a partner in a batch: the mean over consecutive batches."""
    whole = len(data) - len(data) % BATCH
    parts = zip(*(t[:whole].split(BATCH) for t in (data.x, data.y, data.utterance)), strict=True)
    rates = [aam.report(x, y, utterance=u).partner_rate for x, y, u in parts]
    return sum(rates) / len(rates)


def measure(data: Segments, classes: int, representation: str, t: float) -> dict[str, Any]:
    """Return one row in percent, with empty cells where no pair is admitted."""
    aam = AAM(classes, threshold=t, representation=representation)
    report = aam.report(data.x, data.y, speaker=data.speaker, utterance=data.utterance)
    shares = report._asdict() | {"partner_rate": partner_rate(aam, data)}
    names = {"partner_rate": f"partner rate in {BATCH}"}
    within = data.utterance.unique(return_counts=True)[1].square().sum().item()
    pairs = round(report.pair_share * (len(data) ** 2 - within)) // 2
    return {"pairs": pairs} | {
        names.get(name, name.replace("_", " ")): "" if share is None else round(100 * share, 2)
        for name, share in shares.items()
    }


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_corpus(parser)
    parser.add_argument("--segments", type=int, default=4096, help="at most so many, at random")
    parser.add_argument("--seed", type=int, default=987654)
    parser.add_argument("--out", type=Path, default=RESULTS / "table05.csv")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every threshold and representation."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    corpus, frames = read(args)
    paper = read_paper()
    facts = {"corpus": corpus.name, "commit": git_commit()}
    facts |= provenance("examples.ser.similarity", argv, args.seed, torch.device("cpu"))
    rows = []
    for normalize, representation in REPRESENTATIONS:
        standardizer = Standardizer(MODES[normalize]).fit(corpus.utterances, frames)
        data = make_segments(
            corpus, corpus.utterances, frames, standardizer, stride_s=1.0, held_out=False
        )
        data = draw(data, args.segments, args.seed)
        for t in THRESHOLDS:
            head = {"normalisation": normalize, "representation": representation, "T": t}
            row = head | measure(data, len(corpus.labels), representation, t)
            theirs = paper["5", "iemocap", f"T{t}", "label match"]
            rows.append(row | {"paper label match": theirs, "segments": len(data)} | facts)
            print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    write_csv(args.out, rows)


if __name__ == "__main__":
    with user_errors():
        main()
