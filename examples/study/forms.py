"""Train the forms that might do better (docs/study.md): the cells that choose, and that test.

    python -m examples.study.forms --ravdess path/to/ravdess --list
    python -m examples.study.forms --ravdess path/to/ravdess

The speakers of folds 0 to 2 choose one of six forms by a cross-validation among themselves, and so
do those of folds 3 to 5. Then each choice is trained as in the other families and tested on the
folds of the other half, beside the base. `examples.ser.reproduce` trains a cell: one that has its
file in results/cells/forms/ is skipped, one that was stopped goes on where it was.
``python -m examples.study`` analyses what is there.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from examples.errors import user_errors
from examples.provenance import git_commit, write_csv
from examples.ser import reproduce
from examples.ser.data.corpora import CorpusError
from examples.ser.data.ravdess import load_ravdess
from examples.ser.grid.finished import Source
from examples.study.cells import EXAMPLES, FOLDS, is_whole, paths
from examples.study.choice import (
    CHOICE_SEEDS,
    FOLDER,
    HALVES,
    TEST_SEEDS,
    choices,
    choose,
    confirming,
    corpus_of_half,
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.study.forms", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--ravdess", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--list", action="store_true", help="say which cells are there, and stop")
    parser.add_argument("--epochs", type=int, default=30, help="others than 30 are a try")
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/forms"), help="checkpoints, logs")
    parser.add_argument("--cells", type=Path, default=EXAMPLES, help=f"{FOLDER} is below it")
    args = parser.parse_args(argv)
    for key in ("epochs", "jobs"):
        if getattr(args, key) < 1:
            parser.error(f"expected --{key} of 1 or more, got {getattr(args, key)}; raise it")
    return args


def write_manifest(half: int, args: argparse.Namespace) -> Path:
    """Write the manifest of the speakers of a half, with their folds, and return its path."""
    corpus = load_ravdess(args.ravdess)
    if corpus.problems:
        raise CorpusError(corpus.name, corpus.problems)
    path = args.runs / f"{corpus_of_half(half)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "path": Path(os.path.relpath(clip.path, path.parent)).as_posix(), "label": clip.label,
            "speaker": clip.speaker, "gender": clip.gender, "fold": clip.fold,
            "corpus": corpus_of_half(half),
        }
        for clip in corpus.utterances if clip.fold in HALVES[half]
    ]  # fmt: skip
    write_csv(path, rows)
    return path


def train_missing(flags: Sequence[object], args: argparse.Namespace) -> int:
    """Train the cells of `examples.ser.reproduce` that lack a file; return how many failed."""
    flags = ["--table", "forms", "--preset", "strong", "--epochs", args.epochs, *flags]
    flags += ["--threads", 1, "--device", "cpu", "--jobs", args.jobs, "--cache", args.cache]
    flags += ["--runs", args.runs, "--out", args.cells / FOLDER]
    grid = reproduce.parse([str(flag) for flag in flags])
    cells = reproduce.expand(grid.table, grid)
    reproduce.check_finished(cells, Source(grid), grid)
    missing = [cell for cell in cells if not (grid.out / f"{cell.name}.json.gz").exists()]
    return reproduce.train_cells(missing, grid) if missing else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, seed by seed; return how many cells failed."""
    args, failed = parse(argv), 0
    if not args.list and git_commit().endswith("-dirty"):
        print("note: the code has changes that no commit has; the analysis will refuse the cells")
    for half in HALVES if not args.list else ():
        manifest = write_manifest(half, args)
        failed += train_missing(["--manifest", manifest, "--seeds", *CHOICE_SEEDS], args)
    if not (rows := choose(args.cells, args.epochs)):
        return failed
    for half, form in choices(rows).items() if not args.list else ():
        folds = [fold for fold in FOLDS if fold not in HALVES[half]]
        flags = ["--ravdess", args.ravdess, "--variants", "none", form, "--fold", *folds]
        failed += train_missing([*flags, "--seeds", *TEST_SEEDS], args)
    family = confirming(rows, args.epochs)
    is_whole(family, paths(family, args.cells))
    return failed


if __name__ == "__main__":
    with user_errors(reproduce.KEPT):
        raise SystemExit(min(main(), 1))
