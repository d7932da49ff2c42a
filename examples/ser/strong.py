r"""Results of the preset ``--strong``, and the gains of ICASA and AAM, over folds and seeds.

    python -m examples.ser.reproduce --ravdess path/to/ravdess --table separate --preset strong \
        --epochs 30 --seeds 1 2 3
    python -m examples.ser.strong

Reads results/grid and writes results/strong.csv: WA and UA over all clips, as mean and sample SD
over the seeds that have every fold, those of the seeds' mean posterior, and the difference from the
same network without attention and AAM: its interval over speakers, and the gain of each seed. Where
runs/grid has its checkpoint, the network of fold 0 and the first seed is exported to
results/strong.pt, for `load`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from examples.errors import user_errors
from examples.provenance import Row
from examples.ser.grid.cells import GRID, RESULTS
from examples.ser.grid.predictions import join_runs
from examples.ser.grid.runs import Runs, on_common_seeds, read_grid
from examples.ser.grid.significance import compare
from examples.ser.run.evaluate import scores
from examples.ser.run.record import load_saved, load_trained, restore
from examples.ser.tables import write

MEASURES = ("WA", "UA")
RUNS = Path("runs/grid")
CHECKPOINT = RESULTS / "strong.pt"
EXPORTED = "none"  # chosen before the test folds were scored, by validation speakers (docs/log.md)


def accuracy(seeds: Mapping[int, Runs]) -> dict[str, float]:
    """Return WA and UA of all clips: the mean; with several seeds also SD and ensemble."""
    single = [scores(*runs.pooled(), runs.labels) for runs in seeds.values()]
    posteriors, classes = zip(*(sorted_clips(runs) for runs in seeds.values()), strict=True)
    together = scores(np.mean(posteriors, axis=0), classes[0], next(iter(seeds.values())).labels)
    row = {}
    for measure in MEASURES:
        values = [result[measure] for result in single]
        row[measure] = np.mean(values)
        if len(values) > 1:
            row[f"{measure} SD"] = np.std(values, ddof=1)
            row[f"{measure} of the ensemble"] = together[measure]
    return row


def sorted_clips(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Return posteriors and classes in the order of the clips' ids, the same for every seed."""
    order = np.argsort([clip["id"] for r in runs.records for clip in r["utterances"]])
    posterior, y = runs.pooled()
    return posterior[order], y[order]


def gain(ours: Runs, base: Runs) -> Row:
    """Return the gain in UA over `base`, of the common seeds together and of each."""
    if (sides := on_common_seeds(ours, base)) is None:
        return {}
    row = compare(*(join_runs(side.records) for side in sides), metric="UA")
    names = {"difference": "UA gained", "low": "low", "high": "high", "permutation_p": "p"}
    single = [
        np.subtract(*(scores(*side.seeds[seed].pooled(), side.labels)["UA"] for side in sides))
        for seed in sides[0].seeds
    ]
    out = {name: row[key] for key, name in names.items()}
    return out | {"UA gained by seed": " ".join(f"{value:.2f}" for value in single)}


def export(runs: Runs, folder: Path, path: Path) -> None:
    """Write the first run's weights, with its training command and the labels."""
    record = runs.records[0]
    _, net = load_trained(record, folder)
    facts = {"command": record["run"]["command"], "labels": list(record["labels"])}
    torch.save(facts | {"model": net.state_dict()}, path)


def load(path: Path = CHECKPOINT) -> tuple[argparse.Namespace, list[str], nn.Module]:
    """Return the flags, the labels and the network of an exported file."""
    saved = load_saved(path, ("command", "labels", "model"))
    args, net = restore(saved["command"], saved["labels"], saved["model"])
    return args, saved["labels"], net


def main() -> None:
    """Write a row per variant and budget, and the checkpoint."""
    grid = read_grid(GRID)
    rows = []
    for key, runs in grid.items():
        if runs.cell.preset != "strong" or runs.cell.protocol != "speaker" or not runs.seeds:
            continue
        row = {"variant": runs.cell.variant} | accuracy(runs.seeds)
        base = grid.get((*key[:3], "none"))
        if runs.cell.variant != "none" and base:
            row |= gain(runs, base)
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
        rows.append(shown | runs.facts())
        first = next(iter(runs.seeds.values()))
        folder = RUNS / first.cell.name
        if runs.cell.variant == EXPORTED and (folder / "checkpoint.pt").exists():
            export(first, folder, CHECKPOINT)
    write("strong", rows)


if __name__ == "__main__":
    with user_errors():
        main()
