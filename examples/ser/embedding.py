"""Fig. 7: t-SNE of the test clips of one fold, of the input and of two models' embeddings.

    python -m examples.ser.embedding --ravdess path/to/ravdess --runs runs/grid --fold 0

A row for each space says how pure the neighbourhoods are before t-SNE: the share of a clip's ten
nearest neighbours, in standardised features, with its class and with its speaker.
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

from examples.errors import user_errors
from examples.provenance import git_commit, provenance, write_csv
from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.digests import digests
from examples.ser.data.feature_cache import Frames
from examples.ser.data.load import cut, read
from examples.ser.data.segments import Segments
from examples.ser.grid.cells import GRID, OURS, RESULTS, Cell, corpus_in_names, read_cells
from examples.ser.grid.names import name as in_words
from examples.ser.run.figures import draw_embeddings
from examples.ser.run.flags import add_corpus
from examples.ser.run.record import check_data, load_trained

NEIGHBOURS = 10


@torch.no_grad()
def clip_means(values: torch.Tensor, data: Segments) -> np.ndarray:
    """Return the mean over the segments of each clip: (U, D), standardised."""
    _, owner = data.utterance.unique(return_inverse=True)
    total = values.new_zeros(int(owner.max()) + 1, values.shape[1]).index_add_(0, owner, values)
    means = total / owner.bincount()[:, None]
    return np.asarray(StandardScaler().fit_transform(means.numpy()))


def purity(points: np.ndarray, group: Sequence[str]) -> float:
    """Return the share of the nearest neighbours in the same group, in percent."""
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)
    names = np.array(group)
    return float(100 * (names[near] == names[:, None]).mean())


@torch.no_grad()
def embed(
    record: Mapping[str, Any], folder: Path, corpus: Corpus, frames: Frames
) -> tuple[np.ndarray, np.ndarray, list[Utterance]]:
    """Return the input and the embedding of a cell's test clips, and the clips."""
    flags, net = load_trained(record, folder)
    corpus, data = cut(corpus, frames, flags)
    now = digests(corpus, frames, {side: part.clips(corpus) for side, part in data.items()})
    check_data(record, now, folder)
    test = data["test"]
    made = torch.cat([net.embed(x) for x in test.x.split(256)])
    return clip_means(test.x.flatten(1), test), clip_means(made, test), test.clips(corpus)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_corpus(parser)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=987654)
    parser.add_argument("--budget", help="preset, epochs and precision, where the grid has several")
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"))
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def choose_cells(args: argparse.Namespace, corpus: str) -> list[tuple[Cell, dict[str, Any]]]:
    """Return the cells of the two models, or exit where they are not one each."""
    cells = [
        (cell, record) for cell, record in read_cells(args.grid).values()
        if (cell.corpus, cell.protocol, cell.fold, cell.seed)
        == (corpus, "speaker", args.fold, args.seed)
        and cell.is_paper_model and cell.variant in OURS and args.budget in {None, cell.budget}
    ]  # fmt: skip
    budgets = sorted({cell.budget for cell, _ in cells})
    if len(budgets) > 1:
        raise SystemExit(
            f"expected cells of one budget in {args.grid}, got {budgets}; choose one by --budget"
        )
    if {cell.variant for cell, _ in cells} != set(OURS):
        raise SystemExit(
            f"expected cells of {' and '.join(OURS)} in {args.grid}, got none of one of them for "
            f"{corpus}, fold {args.fold}, seed {args.seed}, budget {args.budget or 'any'}; "
            "run examples.ser.reproduce first"
        )
    return sorted(cells, key=lambda pair: OURS.index(pair[0].variant))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the three panels and write their rows."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    corpus, frames = read(args)
    points: dict[str, np.ndarray] = {}
    for cell, record in choose_cells(args, corpus_in_names(corpus.name)):
        folder = args.runs / cell.name
        points["input"], points[cell.variant], clips = embed(record, folder, corpus, frames)
    facts = {
        "fold": args.fold,
        "budget": cell.budget,
        "neighbours": NEIGHBOURS,
        "commit": git_commit(),
    }
    facts |= provenance("examples.ser.embedding", argv, args.seed, torch.device("cpu"))
    labels, speakers = ([getattr(clip, key) for clip in clips] for key in ("label", "speaker"))
    rows = [
        {"space": name, "same class (%)": round(purity(space, labels), 2),
         "same speaker (%)": round(purity(space, speakers), 2)} | facts
        for name, space in points.items()
    ]  # fmt: skip
    write_csv(args.out / "figure7.csv", rows)
    tsne = TSNE(perplexity=min(30, (len(clips) - 1) / 3), random_state=args.seed)  # 30 from 91 on
    panels = {name: tsne.fit_transform(space) for name, space in points.items()}
    panels = {"the input": panels.pop("input")} | {in_words(n): p for n, p in panels.items()}
    draw_embeddings(panels, labels, args.out / "figure7.png")


if __name__ == "__main__":
    with user_errors():
        main()
