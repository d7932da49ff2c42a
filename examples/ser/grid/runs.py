"""Runs of the grid, grouped by experiment: one variant with one protocol and budget."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from examples.provenance import Row
from examples.ser.grid.cells import FOLDS, Cell, read_cells


@dataclass(frozen=True)
class Runs:
    """The runs of one variant with one protocol and budget: a record per fold and seed."""

    cell: Cell  # the first of them
    records: tuple[Mapping[str, Any], ...]

    @property
    def labels(self) -> list[str]:
        """Classes in order."""
        return list(self.records[0]["labels"])

    @property
    def complete(self) -> bool:
        """Whether every fold is there."""
        record = self.records[0]
        folds = record["folds"] if "folds" in record else FOLDS[self.cell.base_corpus]
        return {r["run"]["fold"] for r in self.records} == set(folds)

    @cached_property
    def seeds(self) -> "dict[int, Runs]":
        """The runs of each seed that has every fold."""
        found = defaultdict(list)
        for record in self.records:
            found[record["run"]["seed"]].append(record)
        parts = {
            seed: Runs(
                replace(self.cell, seed=seed, fold=records[0]["run"]["fold"]), tuple(records)
            )
            for seed, records in sorted(found.items())
        }
        return {seed: part for seed, part in parts.items() if part.complete}

    def select_seeds(self, seeds: Iterable[int]) -> "Runs":
        """Return the runs of some of the seeds that have every fold."""
        parts = [self.seeds[seed] for seed in sorted(seeds)]
        return Runs(parts[0].cell, tuple(record for part in parts for record in part.records))

    def facts(self) -> Row:
        """Return the columns that describe the runs of a row."""
        cell, seen = self.cell, [r["run"] for r in self.records]
        return {
            "folds": len({run["fold"] for run in seen}),
            "seeds": len({run["seed"] for run in seen}),
            "epochs": cell.epochs, "preset": cell.preset, "arithmetic": cell.precision,
            "commit": commits(seen),
        }  # fmt: skip

    def has_condition(self, condition: str) -> bool:
        """Whether every run was scored on speech degraded by a condition."""
        return all(condition in record["utterances"][0] for record in self.records)

    def scoring_facts(self) -> Row:
        """Return the commits that scored degraded speech; early cells lack theirs."""
        seen = [r["degraded"] for r in self.records if "degraded" in r]
        return {"commit of the scores": commits(seen)}

    def by_fold(self, selection: str = "last") -> list[Row]:
        """Return the scores of every run."""
        return [row for r in self.records for row in r["rows"] if row["selection"] == selection]

    def pooled(self, selection: str = "last", **where: str) -> tuple[np.ndarray, np.ndarray]:
        """Return posteriors (U, K) and classes (U,) of all runs; `where` selects clips."""
        clips = [
            clip for r in self.records for clip in r["utterances"]
            if all(clip[key] == value for key, value in where.items())
        ]  # fmt: skip
        posterior = np.array([clip[selection] for clip in clips])
        return posterior, np.array([self.labels.index(clip["label"]) for clip in clips])


Grid = dict[tuple[str, ...], Runs]  # (corpus, protocol, budget, variant) -> its runs


def commits(seen: Iterable[Mapping[str, Any]]) -> str:
    """Return the commits of the runs, each once and short."""
    found = {commit for run in seen for commit in run["commit"].split()}
    return " ".join(sorted(c[:9] + "-dirty" * c.endswith("-dirty") for c in found))


def on_common_seeds(a: Runs, b: Runs) -> tuple[Runs, Runs] | None:
    """Return both over the seeds that are complete in both, None without such a seed."""
    seeds = {seed: part for seed, part in a.seeds.items() if seed in b.seeds}
    return (a.select_seeds(seeds), b.select_seeds(seeds)) if seeds else None


def read_grid(folder: Path) -> Grid:
    """Read every cell. A seed that lacks a fold is left out where another one is complete."""
    found = defaultdict(list)
    for cell, record in read_cells(folder).values():
        found[cell.group].append((cell, record))
    every = {key: Runs(runs[0][0], tuple(r for _, r in runs)) for key, runs in found.items()}
    return {
        key: runs.select_seeds(runs.seeds) if runs.seeds else runs for key, runs in every.items()
    }
