"""Run the image cells of the study (docs/study.md) one by one: attention layers and seeds.

    python -m examples.vision.study --data path/to/cifar10 --choose
    python -m examples.vision.study --data path/to/cifar10

``--choose`` trains without attention at each learning rate and scores on validation images alone;
its rows stand in results/choice.csv, and every cell takes the best of them. A cell that has its
file in results/cells is skipped, one that was stopped goes on where it was.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from examples.provenance import read_csv, write_csv
from examples.ser.reproduce import MALLOC
from examples.vision.images import write_aside
from examples.vision.resnet import ATTENTION, DEPTHS

RESULTS = Path(__file__).parent / "results"
RATES = ("0.05", "0.1", "0.2", "0.4")  # candidates for the highest learning rate
CHOICE_SEED = "0"  # no seed of the cells


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.vision.study", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder or zip")
    parser.add_argument("--name", default="CIFAR-10, JPEG, 20k", help="of the data, for the rows")
    parser.add_argument("--choose", action="store_true", help="choose the learning rate, and stop")
    parser.add_argument("--variants", nargs="+", choices=ATTENTION, default=list(ATTENTION))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--list", action="store_true", help="say what is done, and stop")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/vision"), help="checkpoints, logs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="choice.csv and cells")
    return parser.parse_args(argv)


def train(folder: Path, flags: Sequence[str], args: argparse.Namespace) -> bool:
    """Train one run in a process of its own, and say whether it ended well."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "examples.vision.train", "--data", str(args.data)]
    command += ["--name", args.name, "--depth", str(args.depth), "--epochs", str(args.epochs)]
    command += ["--threads", str(args.threads), "--cache", str(args.cache), *flags]
    command += ["--out", str(folder)]
    start = time.perf_counter()
    print(f"{folder.name}: started, log in {folder / 'log.txt'}", flush=True)
    with (folder / "log.txt").open("a") as log:
        log.write(shlex.join(command) + "\n")
        log.flush()
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | MALLOC
        ).returncode
    last = (folder / "log.txt").read_text().splitlines()[-1]
    end = "FAILED: " * bool(code) + last
    print(f"{folder.name}: {end} ({time.perf_counter() - start:.0f} s)", flush=True)
    return not code


def choose(args: argparse.Namespace) -> int:
    """Train without attention at every rate; write the validation rows."""
    rows = []
    for rate in RATES:
        folder = args.runs / f"choice-{prefix(args)}-lr{rate}"
        flags = ["--lr", rate, "--seed", CHOICE_SEED, "--score", "validation"]
        if not train(folder, flags, args):
            return 1
        rows += read_csv(folder / "result.csv")
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "choice.csv", rows)
    print(f"{args.out / 'choice.csv'}: the best rate is {chosen_rate(args.out)}")
    return 0


def chosen_rate(out: Path) -> str:
    """Return the rate with the highest validation accuracy, the lowest of equals."""
    path = out / "choice.csv"
    rows = read_csv(path) if path.exists() else []
    found = {row["lr"]: float(row["accuracy"]) for row in rows if row["part"] == "validation"}
    if set(map(float, found)) != set(map(float, RATES)):
        raise SystemExit(f"{path}: expected a row for each of {RATES}; run --choose first")
    return max(sorted(found, key=float), key=lambda rate: found[rate])


def prefix(args: argparse.Namespace) -> str:
    """Return the part of a cell's name that says data, network and epochs."""
    data = re.sub(r"[^a-z0-9]+", "-", args.name.lower()).strip("-")
    return f"{data}-resnet{args.depth}-{args.epochs}epochs"


def run_cells(args: argparse.Namespace) -> int:
    """Run what is missing, seed by seed: a stop leaves whole comparisons. Count the failures."""
    cells = [(variant, seed) for seed in args.seeds for variant in args.variants]
    names = {cell: f"{prefix(args)}-{cell[0]}-seed{cell[1]}" for cell in cells}
    done = {cell: args.out / "cells" / f"{name}.json.gz" for cell, name in names.items()}
    missing = [cell for cell in cells if not done[cell].exists()]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} done, {len(missing)} to run")
    if args.list:
        for cell in cells:
            print("missing" if cell in missing else "done   ", names[cell])
        return 0
    rate, failed = chosen_rate(args.out) if missing else "", 0
    for variant, seed in missing:
        folder = args.runs / names[variant, seed]
        flags = ["--attention", variant, "--seed", str(seed), "--lr", rate, "--validation", "0"]
        if train(folder, flags, args):
            content = (folder / "predictions.json.gz").read_bytes()
            write_aside(done[variant, seed], lambda file, content=content: file.write(content))
        else:
            failed += 1
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Choose the rate or run the cells, at low priority; return how many runs failed."""
    args = parse(argv)
    if hasattr(os, "nice") and not args.list:
        os.nice(10)
    return choose(args) if args.choose else run_cells(args)


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
