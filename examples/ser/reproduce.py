"""Rerun the paper's tables: every table is a set of cells, every cell one training run.

    python -m examples.ser.reproduce --ravdess path/to/ravdess --table 8 10 --jobs 2
    python -m examples.ser.reproduce --ravdess path/to/ravdess --list
    python -m examples.ser.reproduce --manifest corpus.csv --seeds 1 2 3

A cell is a corpus, a protocol, a variant, a fold and a seed. A cell with a file in results/grid/ is
skipped, a stopped one is resumed, and one that another process trains is left to it. Then
``python -m examples.ser.tables`` makes the tables of all that is there.

With ``--manifest`` every fold and seed of a corpus of your own is trained, by default of the
baseline and AAM-ICASA. Then ``--out`` gets pooled.csv, with intervals over speakers, and the
confusion matrices.
"""

import argparse
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout

from examples.errors import UserError, room_for, user_errors
from examples.progress import progress
from examples.provenance import write_csv
from examples.ser.data.iemocap import PARTS
from examples.ser.data.load import choose, read_corpus
from examples.ser.data.pack import unpack
from examples.ser.grid.cells import (
    FOLDS,
    GRID,
    SEED,
    STUDY,
    TABLES,
    VARIANTS,
    Cell,
    corpus_in_names,
    read_record,
    write_cell,
)  # fmt: skip
from examples.ser.grid.finished import Source, differences
from examples.ser.grid.pooled import complete, pooled_row
from examples.ser.run.checkpoint import IN_USE, is_training
from examples.ser.run.evaluate import confusion
from examples.ser.run.figures import draw_confusion
from examples.ser.run.flags import CLASS_WEIGHTS, DEFAULTS, PRESETS, add_choices

# glibc then keeps the pages that torch frees; else the system zeroes new ones at each step.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": f"{1 << 36}"}
SOURCES = ("ravdess", "iemocap", "packed", "manifest")
CHILDREN: set[subprocess.Popen[bytes]] = set()  # the trainings in progress
KEPT = "finished cells and epochs are kept; the same command goes on with the others"


def expand(tables: Iterable[str], args: argparse.Namespace) -> list[Cell]:
    """List the cells of the tables, each once, fold by fold: a stop leaves complete folds."""
    variants = {
        (protocol, variant): None
        for table in tables
        for protocol, variant in itertools.product(*reversed(TABLES[table]))
        if args.variants is None or variant in args.variants
    }
    corpus, folds = name_and_folds(args)
    if args.fold is not None:
        folds = check_folds(args.fold, folds)
    return [
        Cell(corpus, protocol, variant, fold, seed, args.preset, args.epochs, args.precision)
        for seed, fold, (protocol, variant) in itertools.product(args.seeds, folds, variants)
    ]


def name_and_folds(args: argparse.Namespace) -> tuple[str, Sequence[int]]:
    """Return the name of the corpus as cells have it, and its folds."""
    if args.packed:
        corpus = choose(unpack(args.packed, args.features)[0], args)
    elif args.manifest or args.folds:
        corpus = read_corpus(args)
    elif args.ravdess:
        return "ravdess", FOLDS["ravdess"]
    else:
        name = "iemocap" if args.part == "all" else f"iemocap-{args.part}"
        return name, FOLDS["iemocap"]
    return corpus_in_names(corpus.name), corpus.folds


def check_folds(chosen: Sequence[int], known: Sequence[int]) -> Sequence[int]:
    """Return the chosen folds; refuse one that the corpus does not have."""
    if unknown := [fold for fold in chosen if fold not in known]:
        names = ", ".join(map(str, known))
        raise UserError(f"expected --fold among {names}, got {unknown[0]}; correct it")
    return chosen


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ser.reproduce",
        usage="%(prog)s --manifest CSV [--seeds N ...] [flags: see --help]",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--iemocap", type=Path, metavar="ROOT")
    which.add_argument("--packed", type=Path, metavar="NPZ", help="of examples.ser.packed")
    which.add_argument("--manifest", type=Path, metavar="CSV", help="a corpus of your own")
    add_choices(parser)
    parser.add_argument("--class-weights", choices=CLASS_WEIGHTS, default="none")
    parser.add_argument("--part", choices=PARTS, default="all", help="of IEMOCAP")
    parser.add_argument(
        "--table", nargs="+", choices=TABLES,
        help=f"default: all but {', '.join(STUDY)}; of a manifest, 13-19",
    )  # fmt: skip
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, help="of the tables; all when not given"
    )
    parser.add_argument("--fold", nargs="+", type=int, help="to train; all when not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--epochs", type=int, help="default: the preset's")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument(
        "--list", action="store_true", help="print the state of every cell and stop"
    )
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a cell")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th cell from I on")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"), help="checkpoints, logs")
    parser.add_argument(
        "--out", type=Path, help="one file per finished cell; default: results/grid"
    )
    args = parser.parse_args(argv)
    args.table = args.table or (
        ["13-19"] if args.manifest else [table for table in TABLES if table not in STUDY]
    )
    args.out = args.out or (Path("runs/pooled") if args.manifest else GRID)
    preset = DEFAULTS | PRESETS[args.preset]
    args.features, args.happy, args.quiet = preset["features"], "both", False
    args.epochs = preset["epochs"] if args.epochs is None else args.epochs
    try:
        first, count = (int(part) for part in args.shard.split("/"))
    except ValueError:
        first, count = -1, 0
    for key in ("epochs", "jobs", "threads"):
        if getattr(args, key) < 1:
            parser.error(f"expected --{key} of 1 or more, got {getattr(args, key)}; raise it")
    if min(args.seeds) < 0:
        parser.error(f"expected --seeds of 0 or more, got {min(args.seeds)}; correct it")
    args.seeds = [*dict.fromkeys(args.seeds)]
    if args.part != "all" and not args.iemocap:
        parser.error(f"expected --iemocap with --part, got --part {args.part} alone; leave it out")
    if not 0 <= first < count:
        parser.error(f"expected --shard I/N with 0 <= I < N, got {args.shard}; give, say, 0/4")
    args.shard = slice(first, None, count)
    return args


def train_flags(cell: Cell, args: argparse.Namespace) -> list[str]:
    """Return the flags of `examples.ser.train` that decide the numbers of a cell."""
    source = next(n for n in SOURCES if getattr(args, n))
    flags = [*cell.flags(), f"--{source}", str(getattr(args, source))]
    flags += ["--part", args.part] if args.iemocap else []
    flags += ["--labels", *args.labels] if args.labels else []
    flags += ["--folds", str(args.folds)] if args.folds else []
    flags += [f"--{key}" for key in ("telephone",) if getattr(args, key)]
    flags += ["--skip-bad"] * args.skip_bad
    return [*flags, "--class-weights", args.class_weights]


def train_cell(command: Sequence[str], log: Path) -> int:
    """Run a training process with its output in a log; return its exit status."""
    with log.open("a") as file:
        file.write(shlex.join(command) + "\n")
        file.flush()
        with subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | MALLOC
        ) as child:
            CHILDREN.add(child)
            code = child.wait()
            CHILDREN.discard(child)
    return code


def run(cell: Cell, args: argparse.Namespace) -> str:
    """Train a cell that is not done or being trained; return what happened."""
    folder = args.runs / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    done = args.out / f"{cell.name}.json.gz"
    try:
        with FileLock(folder / "lock", timeout=0):
            if done.exists():
                return "already done"
            if is_training(folder):  # one that outlived the grid that started it, say
                return "left to another process"
            command = [sys.executable, "-m", "examples.ser.train", *train_flags(cell, args)]
            command += ["--cache", str(args.cache), "--out", str(folder), "--quiet"]
            command += ["--device", args.device, "--threads", str(args.threads)]
            code = train_cell(command, folder / "log.txt")
            if code == IN_USE:
                return "left to another process"
            if code:
                return f"FAILED: {last_line(folder / 'log.txt')}, see {folder / 'log.txt'}"
            with room_for(done):
                write_cell((folder / "predictions.json").read_bytes(), done)
            return "done"
    except Timeout:
        return "left to another process"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return last.removeprefix("- ")


def check_finished(cells: Iterable[Cell], source: Source, args: argparse.Namespace) -> None:
    """Refuse finished cells that other flags or another corpus trained.

    Raises:
        UserError: it names the first such cell and what differs.
    """
    unknown = 0
    for cell in cells:
        path = args.out / f"{cell.name}.json.gz"
        if not path.exists():
            continue
        record = read_record(path)
        unknown += "data" not in record
        if different := differences(record, train_flags(cell, args), source):
            raise UserError(
                f"expected cells of this corpus and these flags, got {path} of others "
                f"({'; '.join(different)}); give another --out and --runs"
            )
    if unknown:
        print(
            f"note: {unknown} finished cells are of before cells knew their data; "
            "taken to be of this corpus"
        )


def pool(cells: Sequence[Cell], folds: Sequence[int], args: argparse.Namespace) -> None:
    """Write pooled.csv and the confusion matrices of the variants that have every fold."""
    paths = {
        cell: args.out / f"{cell.name}.json.gz" for cell in cells if cell.protocol == "speaker"
    }
    found = [(cell, read_record(path)) for cell, path in paths.items() if path.exists()]
    rows = []
    for variant, runs in complete(found, folds).items():
        row = pooled_row(runs)
        rows.append(row)
        title = f"{row['corpus']}, {variant}: WA {row['WA']}, UA {row['UA']} %"
        counts = confusion(*runs.pooled(), runs.labels)
        path = args.out / f"confusion-{variant}.png"
        draw_confusion(
            counts, runs.labels, f"{title}\n{row['folds']} folds, {row['seeds']} seeds", path
        )
        print(
            f"{variant:<12} WA {row['WA']} % ({row['WA low']} to {row['WA high']})  "
            f"UA {row['UA']} % ({row['UA low']} to {row['UA high']})  {row['clips']} clips, "
            f"{row['speakers']} speakers, {row['folds']} folds, {row['seeds']} seeds"
        )
    if rows:
        write_csv(args.out / "pooled.csv", rows)
        print(
            f"95 % intervals over speakers; {args.out / 'pooled.csv'}, {args.out}/confusion-*.png"
        )
    else:
        print("no variant has every fold yet: no pooled table")


def train_cells(cells: Sequence[Cell], args: argparse.Namespace) -> int:
    """Train cells one after the other, or ``--jobs`` at once; return how many failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ThreadPoolExecutor(args.jobs) as workers:
        try:
            ends = workers.map(lambda cell: run(cell, args), cells)
            for cell, end in zip(progress(cells, "training", "cell"), ends, strict=True):
                failed += end.startswith("FAILED")
                print(f"{cell.name}: {end}", flush=True)
        except BaseException:  # a stop: the cells in training end, too, and keep their epochs
            workers.shutdown(wait=False, cancel_futures=True)
            for child in [*CHILDREN]:
                child.terminate()
            raise
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Train the missing cells; return how many failed."""
    args = parse(argv)
    cells = expand(args.table, args)[args.shard]
    missing = [cell for cell in cells if not (args.out / f"{cell.name}.json.gz").exists()]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} done, {len(missing)} to run")
    source = Source(args)
    check_finished(cells, source, args)
    if args.list:
        for cell in cells:
            print("missing" if cell in missing else "done   ", cell.name)
        return 0
    failed = train_cells(missing, args)
    if args.manifest:
        check_finished(missing, source, args)  # what another process finished meanwhile, too
        pool(cells, name_and_folds(args)[1], args)
    return failed


if __name__ == "__main__":
    with user_errors(KEPT):
        raise SystemExit(min(main(), 1))
