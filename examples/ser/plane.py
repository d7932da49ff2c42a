"""Choose the network of the preset `--plane` on validation speakers (docs/study.md).

    python -m examples.ser.plane --ravdess path/to/ravdess

Trains every candidate at every rate without attention, one run per fold with seed 0, and scores the
last epoch on the validation speakers of the training folds: no test clip is scored. It writes
results/plane.csv, a row per run, and says which candidate the rule of the protocol takes. Finished
epochs are not repeated. Run it on an idle machine: a candidate that takes longer than two minutes a
fold is out.
"""

import argparse
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from examples.errors import UserError, user_errors
from examples.provenance import Row, read_csv, write_csv
from examples.ser.data.features import FEATURES
from examples.ser.grid.cells import FOLDS, RESULTS
from examples.ser.reproduce import KEPT, last_line, train_cell
from examples.ser.run import flags

CANDIDATES = {"A": "plane-cnn", "B": "plane-cnn-rows", "C": "plane-resnet"}
RATES = ("1e-3", "3e-3")
SEED = 0  # no seed of the study
EQUAL = 0.5  # points of UA within which the cheaper network is taken
LONGEST = 120.0  # seconds a fold


def macs(net: nn.Module, x: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and linear layers on ``x`` (1, ...)."""
    total = 0

    def count(layer: nn.Module, _: object, y: Tensor) -> None:
        nonlocal total
        total += y.numel() * math.prod(layer.weight.shape[1:])

    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return total


def train_flags(network: str, rate: str, fold: int, epochs: int) -> list[str]:
    """Return the flags of `examples.ser.train` that decide the numbers of a run."""
    fixed = ["--plane", "--attention", "none", "--protocol", "speaker", "--precision", "32-true"]
    fixed += ["--validation", "--score", "validation", "--seed", str(SEED), "--threads", "1"]
    fixed += ["--network", network, "--lr", rate, "--fold", str(fold), "--epochs", str(epochs)]
    return fixed


def run(flag: Sequence[str], folder: Path, args: argparse.Namespace) -> Row:
    """Train or resume one run, and return its row."""
    folder.mkdir(parents=True, exist_ok=True)
    source = "ravdess" if args.ravdess else "manifest"
    command = [sys.executable, "-m", "examples.ser.train", *flag, f"--{source}"]
    command += [str(getattr(args, source)), "--cache", str(args.cache), "--out", str(folder)]
    command += ["--device", "cpu", "--quiet"]
    if train_cell(command, folder / "log.txt"):
        raise UserError(f"{folder.name} failed: {last_line(folder / 'log.txt')}")
    (row,) = read_csv(folder / "result.csv")
    seconds = sum(float(epoch["seconds"]) for epoch in read_csv(folder / "history.csv"))
    config = flags.parse(command[3:])
    net = flags.network(config, 2)
    features = FEATURES[config.features]
    count = macs(net, torch.zeros(1, 1, features.rows, features.width))
    facts = {
        "network": config.network,
        "lr": config.lr,
        "macs": count,
        "seconds": round(seconds, 1),
    }
    return facts | row


def choose(rows: Iterable[Row]) -> tuple[str, float]:
    """Return network and rate with the highest mean UA, or the cheapest within half a point.

    A network's time is that of its quickest fold: other work on a machine only adds to it.

    Raises:
        UserError: every candidate takes too long.
    """
    runs = defaultdict(list)
    for row in rows:
        runs[str(row["network"]), float(row["lr"])].append(row)
    scores = {
        key: mean(float(row["UA"]) for row in some) for key, some in runs.items()
        if min(float(row["seconds"]) for row in some) <= LONGEST
    }  # fmt: skip
    if not scores:
        raise UserError(f"expected a candidate of {LONGEST:g} s a fold or less, got none")
    best = max(scores.values())
    near = [key for key, score in scores.items() if best - score <= EQUAL]
    return min(near, key=lambda key: (int(runs[key][0]["macs"]), -scores[key]))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ser.plane", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT")
    which.add_argument("--manifest", type=Path, metavar="CSV", help="another corpus: a try")
    parser.add_argument("--fold", nargs="+", type=int, default=[*FOLDS["ravdess"]])
    parser.add_argument("--epochs", type=int, default=flags.PRESETS["plane"]["epochs"])
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--runs", type=Path, default=Path("runs/plane"), help="checkpoints, logs")
    parser.add_argument("--out", type=Path, default=RESULTS / "plane.csv")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the candidates, write their rows and say which one is chosen."""
    args, rows = parse(argv), []
    for fold, rate, (name, network) in itertools.product(args.fold, RATES, CANDIDATES.items()):
        folder = args.runs / f"{network}-{rate}-epochs{args.epochs}-fold{fold}"
        row = {"candidate": name} | run(train_flags(network, rate, fold, args.epochs), folder, args)
        rows.append(row)
        print(f"{name}  rate {rate}  fold {fold}  UA {float(row['UA']):.1f} %  "
              f"{row['seconds']} s", flush=True)  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(args.out, rows)
    network, rate = choose(rows)
    print(f"{args.out}: the preset is to have network {network}, lr {rate:g}")


if __name__ == "__main__":
    with user_errors(KEPT):
        main()
