"""Fig. 7: t-SNE of the test clips of one fold, in the input and in what two models make of it.

    python -m examples.ser.embedding --ravdess path/to/ravdess --runs runs/grid --fold 0

The picture is for the eye; the row beside it says how pure the neighbourhoods are before t-SNE: the
share of a clip's ten nearest neighbours, in standardised features, that share its class or speaker.
"""

import argparse
import gzip
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from examples.ser import options
from examples.ser.data import cut, read_corpus
from examples.ser.features import Segments, load_frames
from examples.ser.figures import draw_embeddings
from examples.ser.macnn import MACNN
from examples.ser.report import git_commit, provenance, write_csv
from examples.ser.reproduce import GRID, OURS, Cell

RESULTS = Path(__file__).parent / "results"
NEIGHBOURS = 10


@torch.no_grad()
def clip_means(values: torch.Tensor, data: Segments) -> np.ndarray:
    """Mean over the segments of each clip: (U, D), standardised."""
    _, owner = data.utterance.unique(return_inverse=True)
    total = values.new_zeros(int(owner.max()) + 1, values.shape[1]).index_add_(0, owner, values)
    means = total / owner.bincount()[:, None]
    return np.asarray(StandardScaler().fit_transform(means.numpy()))


def purity(points: np.ndarray, group: Sequence[str]) -> float:
    """Share of the nearest neighbours in the same group, in percent."""
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)
    names = np.array(group)
    return float(100 * (names[near] == names[:, None]).mean())


@torch.no_grad()
def embed(cell: Cell, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Return the input and the embedding of the cell's test clips, and the clips."""
    record = json.loads(gzip.decompress((args.grid / f"{cell.name}.json.gz").read_bytes()))
    _, _, _, *argv = shlex.split(record["run"]["command"])  # python -m examples.ser.train ...
    flags = options.parse(argv)
    corpus, frames = load_frames(read_corpus(args), args.cache)
    corpus, data = cut(corpus, frames, flags)
    test = data["test"]
    net = MACNN(len(corpus.labels), attention=flags.attention)
    state = torch.load(args.runs / cell.name / "checkpoint.pt", weights_only=True)
    net.load_state_dict(state["model"])
    made = torch.cat([net.eval().embed(x) for x in test.x.split(256)])
    clips = [corpus.utterances[i] for i in test.utterance.unique().tolist()]
    return clip_means(test.x.flatten(1), test), clip_means(made, test), clips


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the three panels and write their row."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--manifest", type=Path, metavar="CSV")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=987654)
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    args.iemocap = None
    cells = [Cell.parse(path.name.removesuffix(".json.gz")) for path in args.grid.glob("*.json.gz")]
    points: dict[str, np.ndarray] = {}
    for variant in OURS:
        want = ("speaker", variant, args.fold, args.seed)
        found = [c for c in cells if (c.protocol, c.variant, c.fold, c.seed) == want]
        if not found:
            raise SystemExit(f"no cell {want} in {args.grid}; run examples.ser.reproduce first")
        points["input"], points[variant], clips = embed(found[0], args)
    facts = {"fold": args.fold, "neighbours": NEIGHBOURS, "commit": git_commit()}
    facts |= provenance("embedding", argv, args.seed, torch.device("cpu"))
    labels, speakers = ([getattr(clip, key) for clip in clips] for key in ("label", "speaker"))
    rows = [
        {"space": name, "same class (%)": round(purity(space, labels), 2),
         "same speaker (%)": round(purity(space, speakers), 2)} | facts
        for name, space in points.items()
    ]  # fmt: skip
    write_csv(args.out / "figure7.csv", rows)
    panels = {name: TSNE(random_state=args.seed).fit_transform(p) for name, p in points.items()}
    draw_embeddings(panels, labels, args.out / "figure7.png")


if __name__ == "__main__":
    main()
