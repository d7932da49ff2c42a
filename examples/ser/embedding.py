"""Fig. 7: t-SNE of the test clips of one fold, in the input and in what two models make of it.

    python -m examples.ser.embedding --ravdess path/to/ravdess --runs runs/grid --fold 0

The picture is for the eye; the row beside it says how pure the neighbourhoods are before t-SNE: the
share of a clip's ten nearest neighbours, in standardised features, that share its class or speaker.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.features import Frames, Segments
from examples.ser.data.load import cut, read
from examples.ser.reproduce import GRID, OURS, read_cells, trained
from examples.ser.run.figures import draw_embeddings
from examples.ser.run.flags import add_corpus
from examples.ser.run.record import git_commit, provenance, write_csv

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
def embed(
    record: Mapping[str, Any], folder: Path, corpus: Corpus, frames: Frames
) -> tuple[np.ndarray, np.ndarray, list[Utterance]]:
    """Return the input and the embedding of a cell's test clips, and the clips."""
    flags, net = trained(record, folder)
    corpus, data = cut(corpus, frames, flags)
    test = data["test"]
    made = torch.cat([net.embed(x) for x in test.x.split(256)])
    clips = [corpus.utterances[i] for i in test.utterance.unique().tolist()]
    return clip_means(test.x.flatten(1), test), clip_means(made, test), clips


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the three panels and write their row."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_corpus(parser)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=987654)
    parser.add_argument("--budget", help="preset, epochs, arithmetic, where the grid has several")
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"))
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    corpus, frames = read(args)
    cells = [
        (cell, record) for cell, record in read_cells(args.grid).values()
        if (cell.corpus, cell.protocol, cell.fold, cell.seed)
        == (corpus.name, "speaker", args.fold, args.seed)
        and cell.papers and cell.variant in OURS and args.budget in {None, cell.budget}
    ]  # fmt: skip
    budgets = sorted({cell.budget for cell, _ in cells})
    if len(budgets) > 1:
        raise SystemExit(
            f"{args.grid} has several budgets; name one of them by --budget: {budgets}"
        )
    if {cell.variant for cell, _ in cells} != set(OURS):
        raise SystemExit(
            f"{args.grid} lacks {' or '.join(OURS)} of {corpus.name}, fold {args.fold}, seed "
            f"{args.seed}, budget {args.budget or 'any'}; run examples.ser.reproduce first"
        )
    points: dict[str, np.ndarray] = {}
    for cell, record in sorted(cells, key=lambda pair: OURS.index(pair[0].variant)):
        folder = args.runs / cell.name
        points["input"], points[cell.variant], clips = embed(record, folder, corpus, frames)
    facts = {
        "fold": args.fold,
        "budget": budgets[0],
        "neighbours": NEIGHBOURS,
        "commit": git_commit(),
    }
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
