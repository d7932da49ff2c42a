"""Crash drill: kill runs at random moments, resume them, and compare their ends bit for bit.

    python -m examples.ser.crash_drill --kills 64 --grid-kills 18 --rank-kills 8

Trains on synthetic speech. A life begins with an empty folder: SIGKILL after a time drawn from 0 to
that of an undisturbed run, then the same command again, and so on, until one ends by itself. Then
the predictions and the checkpoint must be those of the undisturbed run in every bit, but for times
and commands. Three kinds of run: a training process, of MACNN and of --strong; the grid, killed
alone, so that its training lives on, or with it; and one rank of two under torchrun. Writes a row
per kind, and ends with status 1 if a life ended otherwise. Needs Linux.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from examples.provenance import git_commit, provenance, write_csv
from examples.ser import packed, train
from examples.ser.grid.cells import RESULTS
from examples.ser.run.checkpoint import CHECKPOINT
from examples.ser.synthetic import write_synthetic

FLAGS = ("--device", "cpu", "--threads", "1", "--quiet", "--batch-size", "16", "--epochs", "3")
NETWORKS = {
    "macnn": ("--attention", "icasa", "--aam", "--places", "conv2", *FLAGS),
    "strong": ("--strong", "--attention", "icasa", "--aam", *FLAGS),
}
GRID = ("--table", "13-19", "--variants", "none", "--fold", "0", "--preset", "onecycle")
KILLED, UNFINISHED, FINISHED = "killed", "unfinished", "finished"
# Runs in a folder, for so many seconds or to the end; returns how that ended.
Attempt = Callable[[Path, float | None], str]


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Return the names of the entries of two nested records that differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [line for key in a for line in differences(a[key], b[key], f"{name}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for i in range(len(a)) for line in differences(a[i], b[i], f"{name}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if equal else [name]


def timeless(record: Any) -> Any:
    """Return a nested record without its times and commands."""
    if isinstance(record, dict):
        return {k: timeless(v) for k, v in record.items() if k not in {"seconds", "command"}}
    return [timeless(value) for value in record] if isinstance(record, list) else record


def read_run(folder: Path) -> Any:
    """Return the checkpoint and the predictions of a run."""
    state = torch.load(folder / "run" / CHECKPOINT, weights_only=True)
    return timeless([state, json.loads((folder / "run" / "predictions.json").read_text())])


def read_grid(folder: Path) -> Any:
    """Return the records of the cells of a grid, by name."""
    cells = sorted((folder / "cells").glob("*.json.gz"))
    return timeless({cell.name: json.loads(gzip.decompress(cell.read_bytes())) for cell in cells})


def train_in(folder: Path, argv: Sequence[str]) -> None:
    """Train with the output in a log: the target of a process."""
    with (folder / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    train.main([*argv, "--cache", str(folder / "cache"), "--out", str(folder / "run")])


def training(manifest: Path, flags: Sequence[str]) -> Attempt:
    """Return the attempt of one training process, forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.ser.train"])

    def attempt(folder: Path, seconds: float | None) -> str:
        argv = ["--manifest", str(manifest), *flags]
        process = context.Process(target=train_in, args=(folder, argv))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return KILLED
        check_status(process.exitcode, folder)
        return FINISHED

    return attempt


def check_status(code: int | None, folder: Path) -> None:
    """Raise RuntimeError, with the end of the log, unless a run ended with status 0."""
    if code:
        log = (folder / "log.txt").read_text()[-2000:]
        raise RuntimeError(f"expected a run to end with status 0, got {code}:\n{log}")


def start(folder: Path, module: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a module in a process group of its own."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *argv], stdout=log, stderr=log, start_new_session=True
        )


def grid(archive: Path, chance: random.Random) -> Attempt:
    """Return the attempt of a grid of one cell; half of the kills spare its training."""

    def attempt(folder: Path, seconds: float | None) -> str:
        places = ("--runs", folder / "runs", "--out", folder / "cells", "--packed", archive)
        argv = (*GRID, "--epochs", "3", "--device", "cpu", *map(str, places))
        process = start(folder, "examples.ser.reproduce", argv)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            if chance.random() < 0.5:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return KILLED
        check_status(code, folder)
        # A cell that a spared training still holds is left to it.
        return FINISHED if any((folder / "cells").glob("*.json.gz")) else UNFINISHED

    return attempt


def ranks(manifest: Path, chance: random.Random) -> Attempt:
    """Return the attempt of two processes under torchrun, of which a kill takes one."""

    def attempt(folder: Path, seconds: float | None) -> str:
        places = ("--cache", folder / "cache", "--out", folder / "run", "--manifest", manifest)
        two = ("--standalone", "--nproc-per-node", "2", "-m", "examples.ser.train")
        argv = (*two, *NETWORKS["macnn"], *map(str, places))
        process = start(folder, "torch.distributed.run", argv)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            if found := list(children(process.pid)):
                os.kill(chance.choice(found), signal.SIGKILL)  # torchrun then ends the other
            else:
                process.kill()
            process.wait()
            return KILLED
        check_status(code, folder)
        return FINISHED

    return attempt


def children(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (thread / "children").read_text().split())


def drill(
    attempt: Attempt, read: Callable[[Path], Any], kills: int, folder: Path, chance: random.Random
) -> dict[str, Any]:
    """Compare lives with `kills` kills in all with an undisturbed one; return a row."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "undisturbed").mkdir(parents=True)
    begin = time.perf_counter()
    attempt(folder / "undisturbed", None)
    seconds = time.perf_counter() - begin
    expected, killed, lives, bad = read(folder / "undisturbed"), 0, 0, 0
    while killed < kills:
        life = folder / f"life{lives}"
        life.mkdir()
        end = ""
        while end != FINISHED:
            end = attempt(life, chance.uniform(0, seconds) if killed < kills else None)
            killed += end == KILLED
        lives += 1
        other = differences(expected, read(life))
        bad += bool(other)
        for name in other:
            print(f"{life}: differs in {name}")
    return {"kills": killed, "lives": lives, "lives that ended otherwise": bad}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=64, help="of training processes")
    parser.add_argument("--grid-kills", type=int, default=18)
    parser.add_argument("--rank-kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/crash_drill"))
    parser.add_argument("--csv", type=Path, default=RESULTS / "crash_drill.csv")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the drills, write their rows, and return how many lives ended otherwise."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    chance = random.Random(args.seed)
    manifest = write_synthetic(args.out / "corpus", speakers=6, per_class=1)
    archive = args.out / "corpus.npz"
    cache = ("--cache", str(args.out / "cache"))
    packed.main(["--manifest", str(manifest), "--out", str(archive), *cache])
    plan = {
        f"training, {name}": (training(manifest, flags), read_run, args.kills // len(NETWORKS))
        for name, flags in NETWORKS.items()
    }
    plan |= {
        "grid": (grid(archive, chance), read_grid, args.grid_kills),
        "rank of two": (ranks(manifest, chance), read_run, args.rank_kills),
    }
    facts = provenance("examples.ser.crash_drill", argv, args.seed, torch.device("cpu"))
    rows = []
    for number, (what, (attempt, read, kills)) in enumerate(plan.items()):
        if not kills:
            continue
        row = {"run": what} | drill(attempt, read, kills, args.out / f"drill{number}", chance)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row | {"commit": git_commit()} | facts)
        write_csv(args.csv, rows)
    return sum(row["lives that ended otherwise"] for row in rows)


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
