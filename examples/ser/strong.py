r"""What the recipe ``--strong`` reaches, and what ICASA and AAM bring to it, over folds and seeds.

    python -m examples.ser.reproduce --ravdess path/to/ravdess --table separate --preset strong \
        --epochs 30 --seeds 1 2 3
    python -m examples.ser.strong

Reads results/grid and writes results/strong.csv: WA and UA over all clips, as mean and spread over
seeds, those of the seeds' mean posterior, and the difference to the same network without attention
and AAM, with its interval over speakers. Where runs/grid has its checkpoint, results/strong.pt is
the network of fold 0 and the first seed, for `load`.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.ser.evaluate import scores
from examples.ser.reproduce import GRID, restore, trained
from examples.ser.statistics import compare, join_runs
from examples.ser.tables import RESULTS, Runs, read_grid, write

MEASURES = ("WA", "UA")
RUNS = Path("runs/grid")
CHECKPOINT = RESULTS / "strong.pt"
SHIPPED = "none"  # chosen before the test folds were scored, by validation speakers (docs/log.md)


def by_seed(runs: Runs) -> dict[int, Runs]:
    """Split runs by their seed, those that have every fold."""
    found = defaultdict(list)
    for record in runs.records:
        found[record["run"]["seed"]].append(record)
    parts = {seed: Runs(runs.cell, tuple(records)) for seed, records in sorted(found.items())}
    return {seed: part for seed, part in parts.items() if part.complete}


def accuracy(seeds: Mapping[int, Runs]) -> dict[str, float]:
    """WA and UA of all clips: the mean; of several seeds their SD and their mean posterior's."""
    single = [scores(*runs.pooled(), runs.labels) for runs in seeds.values()]
    posteriors, classes = zip(*(sorted_clips(runs) for runs in seeds.values()), strict=True)
    together = scores(np.mean(posteriors, axis=0), classes[0], next(iter(seeds.values())).labels)
    row = {}
    for measure in MEASURES:
        values = [result[measure] for result in single]
        row[measure] = np.mean(values)
        if len(values) > 1:
            row[f"{measure} SD"] = np.std(values)
            row[f"{measure} of the ensemble"] = together[measure]
    return row


def sorted_clips(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors and classes in the order of the clips' names, the same for every seed."""
    order = np.argsort([clip["id"] for r in runs.records for clip in r["utterances"]])
    posterior, y = runs.pooled()
    return posterior[order], y[order]


def difference(ours: Sequence[Runs], base: Sequence[Runs]) -> dict[str, Any]:
    """UA gained over `base` with its interval and p by speaker, over the seeds of both."""
    a, b = (join_runs([r for runs in side for r in runs.records]) for side in (ours, base))
    row = compare(a, b, metric="UA")
    names = {"difference": "UA gained", "low": "low", "high": "high", "permutation_p": "p"}
    return {name: row[key] for key, name in names.items()}


def ship(runs: Runs, folder: Path, path: Path) -> None:
    """Write the first run's weights, with the command that made them and the labels."""
    record = runs.records[0]
    _, net = trained(record, folder)
    shipped = {"command": record["run"]["command"], "labels": list(record["labels"])}
    torch.save(shipped | {"model": net.state_dict()}, path)


def load(path: Path = CHECKPOINT) -> tuple[argparse.Namespace, list[str], nn.Module]:
    """Return the flags, the labels and the network of what `ship` wrote."""
    shipped = torch.load(path, weights_only=True)
    args, net = restore(shipped["command"], shipped["labels"], shipped["model"])
    return args, shipped["labels"], net


def main() -> None:
    """Write a row per variant, and the checkpoint."""
    grid = read_grid(GRID).items()
    found = {
        key[-1]: by_seed(runs) for key, runs in grid
        if not runs.cell.papers and runs.cell.protocol == "speaker"
    }  # fmt: skip
    rows = []
    for variant, seeds in found.items():
        if not seeds:
            continue
        row = {"variant": variant} | accuracy(seeds)
        shared = sorted(seeds.keys() & found["none"].keys())
        if variant != "none" and shared:
            sides = ([side[seed] for seed in shared] for side in (seeds, found["none"]))
            row |= difference(*sides)
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
        records = tuple(record for runs in seeds.values() for record in runs.records)
        first = next(iter(seeds.values()))
        rows.append(shown | Runs(first.cell, records).facts())
        folder = RUNS / first.cell.name
        if variant == SHIPPED and (folder / "checkpoint.pt").exists():
            ship(first, folder, CHECKPOINT)
    write("strong", rows)


if __name__ == "__main__":
    main()
