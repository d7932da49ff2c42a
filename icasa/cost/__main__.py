"""Print what each attention layer costs in a model: parameters, MACs, memory, latency.

``python -m icasa.cost mymodule:make --input 3x224x224 --batch 1 32 --csv cost.csv``: ``make`` is
called without arguments and returns the model; its module lies in the present folder or is
installed (``timm.models:resnet50``).
"""

import argparse
import csv
import importlib
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icasa._check import check_positive_int
from icasa.cost.measure import Layer, compare, default_layers
from icasa.cost.table import rows, table
from icasa.environment import environment


def parser() -> argparse.ArgumentParser:
    """Make the flags."""
    text = (__doc__ or "").split("\n")[0]
    flags = argparse.ArgumentParser(prog="python -m icasa.cost", description=text)
    flags.add_argument("model", help="module:name, a model or a function that returns one")
    flags.add_argument(
        "--input", nargs="+", required=True, type=shape, metavar="CxHxW",
        help="shape of the input without its batch axis; with several inputs one shape each",
    )  # fmt: skip
    flags.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N", help="default: 1")
    flags.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="names of layers, or module:callable (default: all)",
    )
    flags.add_argument("--ndim", type=int, help="spatial axes of the layers (default: the input's)")
    text = "pattern of module names, module:type, or residual (default)"
    flags.add_argument("--where", default="residual", help=text)
    flags.add_argument("--device", nargs="+", help="default: cpu, and cuda if there is a GPU")
    flags.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    text = "timed calls of each model (default: 30, for slow models fewer, at least 5; "
    flags.add_argument("--rounds", type=int, help=text + "section 3.2 of the paper: 1000)")
    text = "untimed calls before (default: 5, for slow models fewer; section 3.2 of the paper: 100)"
    flags.add_argument("--warmup", type=int, help=text)
    flags.add_argument("--no-step", action="store_true", help="do not measure training steps")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--csv", type=Path, help="write the rows to this CSV file")
    flags.add_argument("--json", type=Path, help="write the rows to this JSON file")
    return flags


def shape(text: str) -> tuple[int, ...]:
    """Read "3x224x224"."""
    try:
        axes = tuple(int(axis) for axis in text.lower().split("x"))
    except ValueError:
        axes = ()
    if not axes or min(axes) < 1:
        raise argparse.ArgumentTypeError(
            f"expected sizes >= 1 joined by x, such as 3x224x224, got {text!r}"
        )
    return axes


def load(text: str) -> Any:
    """Import what ``module:name`` names, from the present folder first."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"expected module:callable, got {text!r}; for example mymodule:make")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        line = f"{type(error).__name__}: {error}".split("\n")[0]
        raise ValueError(
            f"expected a module that imports from {folder} or is installed, got {module!r} ({line})"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = [key for key in vars(found) if not key.startswith("_")]
            raise ValueError(f"expected a name in {module}, got {name!r}; it has {near[:10]}")
        found = getattr(found, part)
    return found


def load_model(text: str) -> nn.Module:
    """Return the model that ``module:callable`` names or makes."""
    made = load(text)
    if not isinstance(made, nn.Module):
        try:
            made = made()
        except Exception as error:  # whatever the user's function raises
            line = f"{type(error).__name__}: {error}".split("\n")[0]
            hint = "name a function without required arguments"
            raise ValueError(f"{text}() fails: {line}; {hint}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"expected a torch.nn.Module from {text}, got {type(made).__name__}")
    return made


def choose_layers(names: Sequence[str] | None, ndim: int) -> dict[str, Layer]:
    """Return the named layers of this library, those of ``module:callable``, or all."""
    known = default_layers(ndim)
    chosen = {}
    for name in known if names is None else names:
        if ":" not in name and name not in known:
            raise ValueError(f"expected module:callable or one of {list(known)}, got {name!r}")
        chosen[name] = known[name] if name in known else load(name)
    return chosen


def write(path: Path, made: list[dict[str, Any]], as_json: bool) -> None:
    """Write rows as JSON or as CSV."""
    with path.open("w", newline="") as file:
        if as_json:
            json.dump(made, file, indent=1)
        else:
            writer = csv.DictWriter(file, made[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(made)


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Measure, print the table and write the files."""
    torch.manual_seed(args.seed)
    files = [path for path in (args.csv, args.json) if path]
    for path in files:  # before the measurement rather than after it
        if not path.parent.is_dir() or path.is_dir():
            hint = "make the folder, or name a file in it"
            raise ValueError(f"expected a file in an existing folder, got {path}; {hint}")
    if args.threads is not None:
        torch.set_num_threads(check_positive_int("threads", args.threads))
    x = tuple(torch.randn(1, *axes) for axes in args.input)
    ndim = args.ndim or max(1, x[0].ndim - 2)
    costs = compare(
        load_model(args.model),
        x,
        layers=choose_layers(args.layers, ndim),
        where=load(args.where) if ":" in args.where else args.where,
        batch_sizes=args.batch,
        devices=args.device or ["cpu", *["cuda"] * torch.cuda.is_available()],
        rounds=args.rounds,
        warmup=args.warmup,
        step=not args.no_step,
        seed=args.seed,
    )
    print(f"Latency: median (20th-80th percentile). Threads: {torch.get_num_threads()}.\n")
    print(f"{table(costs)}\n")
    command = shlex.join(["python", "-m", "icasa.cost", *argv])
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    facts = {**environment(), "command": command, "date": date}
    for path in files:
        write(path, rows(costs, facts), as_json=path == args.json)
        print(f"{len(costs)} rows in {path}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; what is wrong with it is one line and exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, to stderr
    flags = parser()
    args = flags.parse_args(argv)
    try:
        run(args, argv)
    except (ValueError, OSError) as error:
        flags.exit(2, f"{flags.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
