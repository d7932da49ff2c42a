"""Predictions of a system, one row per utterance and seed, from the records of its runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Predictions:
    """Predictions of one system: a row per utterance and seed.

    Args:
        id: of the utterance.
        label: its class index.
        speaker: of the utterance.
        predicted: class indices (U,), or posteriors (U, K) whose argmax is taken.
        fold: in which it was tested.
        seed: the seed of the run.

    Raises:
        ValueError: the columns differ in length, or an utterance is there twice for one seed.
    """

    id: np.ndarray
    label: np.ndarray
    speaker: np.ndarray
    predicted: np.ndarray
    fold: np.ndarray
    seed: np.ndarray

    def __post_init__(self) -> None:
        """Make arrays of the columns and check them."""
        for name, column in vars(self).items():
            setattr(self, name, np.asarray(column))
        if self.predicted.ndim == 2:
            self.predicted = self.predicted.argmax(1)
        lengths = {name: column.shape for name, column in vars(self).items()}
        if set(lengths.values()) != {(len(self.label),)} or not len(self.label):
            raise ValueError(
                f"expected columns of equal length, at least 1, got {lengths}; "
                "give a row per utterance and seed"
            )
        times = Counter(zip(self.seed.tolist(), self.id.tolist(), strict=True))
        if twice := [key for key, count in times.items() if count > 1]:
            raise ValueError(
                f"expected an utterance once per seed, got (seed, id) {twice[:3]} more often; "
                "join runs of different folds or seeds only"
            )

    def sorted(self) -> "Predictions":
        """Return the rows in the order of seed and id."""
        order = np.lexsort((self.id, self.seed))
        return Predictions(**{name: column[order] for name, column in vars(self).items()})


def join_runs(
    records: Sequence[Mapping[str, Any]], selection: str = "last", **where: str
) -> Predictions:
    """Join runs of one system; `where` selects clips, for example gender="male"."""
    columns: dict[str, list[Any]] = {name: [] for name in Predictions.__dataclass_fields__}
    for record in records:
        for clip in record["utterances"]:
            if any(clip[key] != value for key, value in where.items()):
                continue
            columns["id"].append(clip["id"])
            columns["label"].append(records[0]["labels"].index(clip["label"]))
            columns["speaker"].append(clip["speaker"])
            columns["predicted"].append(int(np.argmax(clip[selection])))
            columns["fold"].append(record["run"]["fold"])
            columns["seed"].append(record["run"]["seed"])
    if any(record["labels"] != records[0]["labels"] for record in records):
        others = [list(r["labels"]) for r in records if r["labels"] != records[0]["labels"]]
        raise ValueError(
            f"expected runs with labels {list(records[0]['labels'])}, got {others[0]}; "
            "join runs of one corpus only"
        )
    return Predictions(**columns)


def align(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """Return both in one order; raise ValueError unless their utterances and seeds agree."""
    a, b = a.sorted(), b.sorted()
    for name in ("seed", "id", "label", "speaker", "fold"):
        ours, theirs = getattr(a, name), getattr(b, name)
        if not np.array_equal(ours, theirs):
            few = [f"{sorted(set(x.tolist()) - set(y.tolist()))[:3]} ({len(x)} rows)"
                   for x, y in ((ours, theirs), (theirs, ours))]  # fmt: skip
            raise ValueError(
                f"expected the same utterances, seeds, labels, speakers and folds, got another "
                f"{name}: only in a {few[0]}, only in b {few[1]}; test both on the same split"
            )
    return a, b
