"""Rerun the paper's tables: every table is a set of cells, every cell one training run.

    python -m examples.ser.reproduce --ravdess path/to/ravdess --table 8 10 --jobs 2
    python -m examples.ser.reproduce --ravdess path/to/ravdess --list

A cell is a corpus, a protocol, a variant, a fold and a seed. A cell with a file in results/grid/ is
skipped, a stopped one is resumed, and one that another process trains is left to it. Then
``python -m examples.ser.tables`` makes the tables of all that is there.
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
from tqdm import tqdm

from examples.ser.data.corpora import CorpusError
from examples.ser.data.iemocap import PARTS
from examples.ser.data.pack import unpack
from examples.ser.grid.cells import (
    FOLDS,
    GRID,
    SEED,
    TABLES,
    VARIANTS,
    Cell,
    corpus_in_names,
    write_cell,
)
from examples.ser.run import flags
from examples.ser.run.checkpoint import IN_USE, is_training

# glibc then keeps the pages that torch frees; else the system zeroes new ones at each step.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": f"{1 << 36}"}


def expand(tables: Iterable[str], args: argparse.Namespace) -> list[Cell]:
    """List the cells of the tables, each once, fold by fold: a stop leaves complete folds."""
    variants = {
        (protocol, variant): None
        for table in tables
        for protocol, variant in itertools.product(*reversed(TABLES[table]))
        if args.variants is None or variant in args.variants
    }
    corpus, folds = "ravdess", FOLDS["ravdess"]
    if args.iemocap:
        corpus = "iemocap" if args.part == "all" else f"iemocap-{args.part}"
        folds = FOLDS["iemocap"]
    if args.packed:
        features = (flags.DEFAULTS | flags.PRESETS[args.preset])["features"]
        content, _ = unpack(args.packed, features)
        corpus, folds = corpus_in_names(content.name), content.folds
    folds = folds if args.folds is None else args.folds
    return [
        Cell(corpus, protocol, variant, fold, seed, args.preset, args.epochs, args.precision)
        for seed, fold, (protocol, variant) in itertools.product(args.seeds, folds, variants)
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--iemocap", type=Path, metavar="ROOT")
    which.add_argument("--packed", type=Path, metavar="NPZ", help="of examples.ser.packed")
    parser.add_argument("--part", choices=PARTS, default="all", help="of IEMOCAP")
    parser.add_argument("--table", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, help="of the tables; all when not given"
    )
    parser.add_argument("--folds", nargs="+", type=int, help="all when not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED])
    parser.add_argument("--preset", choices=flags.PRESETS, default="paper")
    parser.add_argument("--epochs", type=int, default=60)
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
    parser.add_argument("--out", type=Path, default=GRID, help="one file per finished cell")
    args = parser.parse_args(argv)
    try:
        first, count = (int(part) for part in args.shard.split("/"))
    except ValueError:
        first, count = -1, 0
    if args.part != "all" and not args.iemocap:
        parser.error(f"expected --iemocap with --part, got --part {args.part} alone; leave it out")
    if not 0 <= first < count:
        parser.error(f"expected --shard I/N with 0 <= I < N, got {args.shard}; give, say, 0/4")
    args.shard = slice(first, None, count)
    return args


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
            source = next(n for n in ("ravdess", "iemocap", "packed") if getattr(args, n))
            command = [sys.executable, "-m", "examples.ser.train", *cell.flags(), "--quiet"]
            command += [f"--{source}", str(getattr(args, source)), "--device", args.device]
            command += ["--part", args.part] if args.iemocap else []
            command += ["--cache", str(args.cache), "--out", str(folder)]
            command += ["--threads", str(args.threads)]
            with (folder / "log.txt").open("a") as log:
                log.write(shlex.join(command) + "\n")
                log.flush()
                code = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | MALLOC
                ).returncode
            if code == IN_USE:
                return "left to another process"
            if code:
                return f"FAILED, see {folder / 'log.txt'}"
            write_cell((folder / "predictions.json").read_bytes(), done)
            return "done"
    except Timeout:
        return "left to another process"


def main(argv: Sequence[str] | None = None) -> int:
    """Train the missing cells; return how many failed."""
    args = parse(argv)
    cells = expand(args.table, args)[args.shard]
    missing = [cell for cell in cells if not (args.out / f"{cell.name}.json.gz").exists()]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} done, {len(missing)} to run")
    if args.list:
        for cell in cells:
            print("missing" if cell in missing else "done   ", cell.name)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(missing), unit="cell") as bar:
        for cell, end in zip(missing, pool.map(lambda cell: run(cell, args), missing), strict=True):
            failed += end.startswith("FAILED")
            bar.write(f"{cell.name}: {end}")
            bar.update()
    return failed


if __name__ == "__main__":
    try:
        raise SystemExit(min(main(), 1))
    except CorpusError as error:
        raise SystemExit(str(error)) from None
