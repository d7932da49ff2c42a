"""Rerun the paper's tables: every table is a set of cells, every cell one training run.

    python -m examples.ser.reproduce --ravdess path/to/ravdess --table 8 10 --jobs 2
    python -m examples.ser.reproduce --ravdess path/to/ravdess --list

A cell is a corpus, a protocol, a variant, a fold and a seed. What has a file in results/grid/ is
skipped; what was stopped goes on where it was; a cell that another process works on is left to it.
``python -m examples.ser.tables`` makes the tables of what is there.
"""

import argparse
import gzip
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn
from tqdm import tqdm

from examples.ser.data.iemocap import PARTS
from examples.ser.run import flags
from examples.ser.run.flags import PRESETS

GRID = Path(__file__).parent / "results" / "grid"
FOLDS = {"ravdess": range(6), "iemocap": range(5)}
ATTENTIONS = ("none", "sa", "ica", "icasa", "eca", "cbam", "se", "ca")
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
ALPHAS = (1, 2, 3, 5)
AUGMENT = ("crop", "spec-augment", "mixup")  # of Table 9
VARIANTS = {
    "none": ["--attention", "none"],
    "icasa": ["--attention", "icasa"],
    **{f"{name}+aam": ["--attention", name, "--aam"] for name in ATTENTIONS},
    "none+aam-unweighted": ["--attention", "none", "--aam", "--alpha", "0"],
    "none+aam-random": ["--attention", "none", "--aam", "--pairing", "random"],
    **{f"none+aam-T{t}": ["--attention", "none", "--aam", "--threshold", f"{t}"]
       for t in THRESHOLDS if t != 0.7},
    **{f"none+aam-alpha{a}": ["--attention", "none", "--aam", "--alpha", f"{a}"]
       for a in ALPHAS if a != 2},
    **{f"none{aam}+{name}": ["--attention", "none", "--augment", name, *["--aam"] * bool(aam)]
       for aam in ("", "+aam") for name in AUGMENT},
    "none-stride0.4": ["--attention", "none", "--train-stride", "0.4"],
}  # fmt: skip
SPEAKER, LEAKY = ("speaker",), ("leaky-utterance", "leaky-segment")
LAYERS = ("none+aam", "eca+aam", "cbam+aam", "se+aam", "ca+aam", "icasa+aam")
OURS = ("none", "icasa+aam")  # the paper's baseline, and AAM-ICASA-MACNN
# Table -> (variants, protocols). Tables 13 to 19 are read off the same predictions.
TABLES = {
    "6": (("none+aam", *(v for v in VARIANTS if "-T" in v)), SPEAKER),
    "7": (("none+aam", *(v for v in VARIANTS if "-alpha" in v)), SPEAKER),
    "8": (("none", "none+aam-unweighted", "none+aam-random", "none+aam"), SPEAKER),
    # SPA, which Table 9 also combines with AAM, was never published: no cell can stand for it.
    "9": (("none", "none+aam", *(v for v in VARIANTS if v.split("+")[-1] in AUGMENT)), SPEAKER),
    "10": (("none+aam", "sa+aam", "ica+aam", "icasa+aam"), SPEAKER),
    "11": (LAYERS, SPEAKER),  # of IEMOCAP; RAVDESS has them in Table 12
    "12": (LAYERS, SPEAKER),
    "13-19": (OURS, SPEAKER),
    "protocol": ((*OURS, "none-stride0.4"), SPEAKER + LEAKY),
    "separate": (("none", "icasa", "none+aam", "icasa+aam"), SPEAKER),  # what each brings alone
}
SEED = 987654
# glibc then keeps what torch frees, where it would give each map back to the system and have it
# zeroed again by the next step.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": f"{1 << 36}"}
NAME = (
    r"(?P<corpus>\w+(?:-(?:impro|script))?)-(?P<protocol>speaker|leaky-\w+)-(?P<variant>.+)-(?P<preset>[a-z]+)"
    r"(?P<epochs>\d+)-(?P<precision>32-true|bf16-mixed)-seed(?P<seed>\d+)-fold(?P<fold>\d+)"
)


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    corpus: str
    protocol: str
    variant: str
    fold: int
    seed: int
    preset: str
    epochs: int
    precision: str

    @property
    def name(self) -> str:
        """Name of its folder and file."""
        what = f"{self.corpus}-{self.protocol}-{self.variant}-{self.budget}"
        return f"{what}-seed{self.seed}-fold{self.fold}"

    @property
    def budget(self) -> str:
        """Name of how it is trained and how long."""
        return f"{self.preset}{self.epochs}-{self.precision}"

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Return what it has in common with its other folds and seeds."""
        return self.corpus, self.protocol, self.budget, self.variant

    @property
    def family(self) -> str:
        """Name of the corpus without the part that is taken of it."""
        return self.corpus.partition("-")[0]

    @property
    def papers(self) -> bool:
        """Whether it is the paper's model, at whatever budget."""
        return self.preset != "strong"

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """Read a cell off its name."""
        if not (found := re.fullmatch(NAME, name)):
            raise ValueError(f"{name!r} is no cell; wanted {NAME}")
        parts = found.groupdict()
        return cls(**parts | {key: int(parts[key]) for key in ("epochs", "seed", "fold")})

    def flags(self) -> list[str]:
        """Return the flags of `examples.ser.train` that say this cell."""
        flags = ["--protocol", self.protocol, "--fold", str(self.fold), "--seed", str(self.seed)]
        flags += [f"--{self.preset}", "--epochs", str(self.epochs), "--precision", self.precision]
        return [*flags, "--no-validation", *VARIANTS[self.variant]]


def expand(tables: Iterable[str], args: argparse.Namespace) -> list[Cell]:
    """List the cells of the tables, each once, fold by fold: a stop leaves whole comparisons."""
    wanted = {
        (protocol, variant): None
        for table in tables
        for protocol, variant in itertools.product(*reversed(TABLES[table]))
        if args.variants is None or variant in args.variants
    }
    corpus, folds = "ravdess", FOLDS["ravdess"]
    if args.iemocap:
        corpus = "iemocap" if args.part == "all" else f"iemocap-{args.part}"
        folds = FOLDS["iemocap"]
    folds = folds if args.folds is None else args.folds
    return [
        Cell(corpus, protocol, variant, fold, seed, args.preset, args.epochs, args.precision)
        for seed, fold, (protocol, variant) in itertools.product(args.seeds, folds, wanted)
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--iemocap", type=Path, metavar="ROOT")
    which.add_argument("--packed", type=Path, metavar="NPZ", help="RAVDESS by examples.ser.packed")
    parser.add_argument("--part", choices=PARTS, default="all", help="of IEMOCAP")
    parser.add_argument("--table", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="of the tables' own, all")
    parser.add_argument("--folds", nargs="+", type=int, help="all when not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--list", action="store_true", help="say what is done, and stop")
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a cell")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th cell from I on")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/grid"), help="checkpoints, logs")
    parser.add_argument("--out", type=Path, default=GRID, help="one file per cell that is done")
    args = parser.parse_args(argv)
    try:
        first, count = (int(part) for part in args.shard.split("/"))
    except ValueError:
        first, count = -1, 0
    if args.part != "all" and not args.iemocap:
        parser.error(f"--part {args.part} is of IEMOCAP; name it by --iemocap, or leave this out")
    if not 0 <= first < count:
        parser.error(f"--shard {args.shard}: wanted I/N with 0 <= I < N, such as 0/4")
    args.shard = slice(first, None, count)
    return args


def run(cell: Cell, args: argparse.Namespace) -> str:
    """Train a cell that nobody has done or is doing; say what became of it."""
    folder = args.runs / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    done = args.out / f"{cell.name}.json.gz"
    try:
        with FileLock(folder / "lock", timeout=0):
            if done.exists():
                return "there already"
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
            if code:
                return f"FAILED, see {folder / 'log.txt'}"
            write_cell((folder / "predictions.json").read_bytes(), done)
            return "done"
    except Timeout:
        return "left to another process"


def write_cell(content: bytes, target: Path) -> None:
    """Write beside and rename, without a time stamp: equal content gives equal bytes."""
    partial = target.with_suffix(".tmp")
    partial.write_bytes(gzip.compress(content, mtime=0))
    partial.replace(target)


def read_cells(folder: Path) -> dict[Path, tuple[Cell, dict[str, Any]]]:
    """Read every cell that is done: its file, what it is and what it holds."""
    return {
        path: (Cell.parse(path.name.removesuffix(".json.gz")),
               json.loads(gzip.decompress(path.read_bytes())))
        for path in sorted(folder.glob("*.json.gz"))
    }  # fmt: skip


def trained(record: Mapping[str, Any], folder: Path) -> tuple[argparse.Namespace, nn.Module]:
    """Return the flags and the trained network of a cell whose checkpoint lies in `folder`."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    return restore(record["run"]["command"], record["labels"], state)


def restore(
    command: str, labels: Sequence[str], state: Mapping[str, Any]
) -> tuple[argparse.Namespace, nn.Module]:
    """Return the flags of a training command, and the network that it made of `state`."""
    _, _, _, *argv = shlex.split(command)  # python -m examples.ser.train ...
    args = flags.parse(argv)
    net = flags.network(args, len(labels))
    net.load_state_dict(state)
    return args, net.eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; return how many cells failed."""
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
    raise SystemExit(min(main(), 1))
