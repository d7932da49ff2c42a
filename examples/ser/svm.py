"""A simple baseline with every protocol: an SVM on the statistics of segments.

    python -m examples.ser.svm --ravdess path/to/ravdess

The mean, standard deviation, minimum and maximum of each row of a segment over its valid frames are
standardised and classified by an RBF support vector machine with scikit-learn's default C and
gamma: nothing is tuned. A clip's decision is the mean of its segments', as Algorithm 2 averages
posteriors. Writes results/svm.csv.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from examples.errors import user_errors
from examples.provenance import git_commit, provenance, write_csv
from examples.ser.data.load import load
from examples.ser.data.segments import Segments
from examples.ser.data.splits import PROTOCOLS
from examples.ser.grid.cells import RESULTS
from examples.ser.run import flags

PROSODY = ["--features", "prosody", "--train-stride", "1.6", "--test-stride", "0.8"]
# The paper's features and training stride; with its test stride in training; other features.
INPUTS = (
    [],
    ["--train-stride", "0.4"],
    ["--normalize", "speaker"],
    PROSODY,
    [*PROSODY, "--normalize", "speaker"],
)


def statistics(data: Segments) -> np.ndarray:
    """Return mean, standard deviation, minimum and maximum of each row: (S, 4 * rows)."""
    rows = []
    for x, valid in zip(data.x[:, 0], data.valid.tolist(), strict=True):
        frames = x[:, :valid]
        parts = (frames.mean(1), frames.std(1), frames.amin(1), frames.amax(1))
        rows.append(torch.cat(parts))
    return torch.stack(rows).numpy()


def score(train: Segments, test: Segments) -> dict[str, float]:
    """Fit on the training segments; return WA and UA in percent over the test utterances."""
    machine = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovr"))
    machine.fit(statistics(train), train.y.numpy())
    decision = torch.from_numpy(machine.decision_function(statistics(test)))
    ids, owner = test.utterance.unique(return_inverse=True)
    total = decision.new_zeros(len(ids), decision.shape[1]).index_add_(0, owner, decision)
    y = torch.empty_like(ids).index_copy_(0, owner, test.y).numpy()
    predicted = machine.classes_[(total / owner.bincount()[:, None]).argmax(1).numpy()]
    return {
        "WA": round(100 * accuracy_score(y, predicted), 4),
        "UA": round(100 * balanced_accuracy_score(y, predicted), 4),
    }


def parse(argv: Sequence[str], more: Sequence[str] = ()) -> argparse.Namespace:
    """Read flags of `examples.ser.train`, with `more` of them for one input and protocol."""
    return flags.parse([*argv, *more, "--onecycle", "--out", "runs/svm"])


def main(argv: Sequence[str] | None = None) -> None:
    """Score every input, protocol and fold."""
    argv = sys.argv[1:] if argv is None else list(argv)
    rows = []
    for kind, protocol in itertools.product(INPUTS, PROTOCOLS):
        args = parse(argv, [*kind, "--protocol", protocol])
        fold, folds = 0, 1
        while fold < folds:
            args.fold = fold
            corpus, data = load(args)
            folds = len(corpus.folds)
            row = {"corpus": corpus.name, "protocol": protocol, "features": args.features}
            row |= {"normalisation": args.normalize, "stride (s)": args.train_stride, "fold": fold}
            row |= score(data["train"], data["test"])
            print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
            facts = provenance("examples.ser.svm", argv, args.seed, torch.device("cpu"))
            rows.append(row | {"commit": git_commit()} | facts)
            fold += 1
    write_csv(RESULTS / "svm.csv", rows)


if __name__ == "__main__":
    with user_errors():
        main()
