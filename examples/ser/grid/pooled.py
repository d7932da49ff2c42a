"""Scores of a corpus over all folds and seeds: pooled clips, intervals over speakers, confusion."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from examples.provenance import Row
from examples.ser.grid.cells import Cell
from examples.ser.grid.runs import Runs
from examples.ser.run.evaluate import confusion, scores

LEVEL, RESAMPLES, SEED = 0.95, 9_999, 0  # of the bootstrap over speakers
MEASURES = ("WA", "UA")


def speaker_counts(runs: Runs) -> np.ndarray:
    """Return the confusion (S, K, K) of each speaker, summed over seeds: actual, predicted."""
    speakers = sorted({clip["speaker"] for r in runs.records for clip in r["utterances"]})
    return np.stack([confusion(*runs.pooled(speaker=speaker), runs.labels) for speaker in speakers])


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Return WA and UA (..., 2) in percent of confusions (..., K, K)."""
    hits, actual = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1)
    recall = np.divide(hits, actual, out=np.full(hits.shape, np.nan), where=actual > 0)
    return 100 * np.stack([hits.sum(-1) / actual.sum(-1), np.nanmean(recall, -1)], axis=-1)


def interval(counts: np.ndarray) -> np.ndarray:
    """Return the percentile interval (2, 2) of WA and UA when the speakers (S, K, K) are redrawn.

    The speakers are the independent units: the clips of one are alike.
    """
    drawn = np.random.default_rng(SEED).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES
    )
    resampled = np.tensordot(drawn.astype(float), counts.astype(float), 1)
    return np.quantile(accuracy(resampled), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def pooled_row(runs: Runs) -> Row:
    """Return the scores of the clips of all folds: mean over seeds, interval over speakers."""
    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for record in runs.records:
        by_seed.setdefault(record["run"]["seed"], []).append(record)
    seeds = [Runs(runs.cell, tuple(records)) for records in by_seed.values()]
    found = [scores(*part.pooled(), part.labels) for part in seeds]
    counts = speaker_counts(runs)
    low, high = interval(counts)
    row: Row = {"corpus": runs.cell.corpus, "variant": runs.cell.variant}
    row |= {"clips": len(seeds[0].pooled()[1]), "speakers": len(counts)}
    for index, measure in enumerate(MEASURES):
        values = [result[measure] for result in found]
        row |= {measure: np.mean(values), f"{measure} low": low[index]}
        row[f"{measure} high"] = high[index]
        row[f"{measure} SD over seeds"] = np.std(values, ddof=1) if len(values) > 1 else ""
    names = [*(f"F1_{label}" for label in runs.labels), "ECE"]
    row |= {name.replace("_", " "): np.mean([result[name] for result in found]) for name in names}
    shown = {k: f"{v:.2f}" if isinstance(v, float) else v for k, v in row.items()}
    return shown | runs.facts()


def complete(
    found: Iterable[tuple[Cell, Mapping[str, Any]]], folds: Sequence[int]
) -> dict[str, Runs]:
    """Return the runs of each variant over the seeds that have every fold."""
    cells = list(found)
    out = {}
    for variant in dict.fromkeys(cell.variant for cell, _ in cells):
        mine = [(cell, record) for cell, record in cells if cell.variant == variant]
        seeds = {cell.seed for cell, _ in mine}
        whole = {seed for seed in seeds if {c.fold for c, _ in mine if c.seed == seed} >= {*folds}}
        if kept := [(cell, record) for cell, record in mine if cell.seed in whole]:
            out[variant] = Runs(kept[0][0], tuple(record for _, record in kept))
    return out
