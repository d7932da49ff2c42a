"""Standardisation of features, by statistics that never come from held-out clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from examples.ser.data.corpora import Utterance, few
from examples.ser.data.feature_cache import Frames
from examples.ser.data.features import MFCC_39, FeatureSet


class Standardizer:
    """Subtract the mean and divide by the standard deviation of each row of a feature set.

    The statistics are those of the training utterances (mode "train"), of each "utterance", of
    each "speaker" (over all utterances of the speaker, also held-out ones, without their labels),
    or "none". They are over whole utterances, so no frame of overlapping segments counts twice.
    """

    MODES = ("train", "none", "utterance", "speaker")

    def __init__(self, mode: str = "train", features: FeatureSet = MFCC_39) -> None:
        if mode not in self.MODES:
            raise ValueError(f"expected a mode of {', '.join(self.MODES)}, got {mode!r}")
        self.mode = mode
        self.features = features
        self.mean = np.zeros(features.rows, np.float32)
        self.std = np.ones(features.rows, np.float32)
        self.fitted_on: frozenset[str] = frozenset()

    def fit(self, utterances: Sequence[Utterance], frames: Frames) -> Standardizer:
        """Compute the statistics of the training utterances; only mode "train" needs it."""
        if self.mode == "train":
            self.mean, self.std = self._moments([frames[u.id] for u in utterances])
            self.fitted_on = frozenset(u.id for u in utterances)
        return self

    def check_held_out(self, utterances: Sequence[Utterance]) -> None:
        """Raise ValueError if one of these utterances was fitted on."""
        if seen := sorted(u.id for u in utterances if u.id in self.fitted_on):
            raise ValueError(
                f"expected statistics of training utterances, got those of held-out {few(seen)}; "
                "fit on train alone"
            )

    def statistics(
        self, utterances: Sequence[Utterance], frames: Frames, everyone: Sequence[Utterance]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation (U, rows) to apply to each of the utterances.

        Mode "speaker" finds a speaker's other utterances in `everyone`, the corpus.
        """
        if self.mode == "train" and not self.fitted_on:
            raise ValueError("expected a fitted standardizer; call fit(split.train, frames) first")
        if self.mode in {"train", "none"}:
            return tuple(np.tile(value, (len(utterances), 1)) for value in (self.mean, self.std))
        key = {"utterance": "id", "speaker": "speaker"}[self.mode]
        chosen_groups = {getattr(u, key) for u in utterances}
        groups = defaultdict(list)
        for u in everyone:
            if getattr(u, key) in chosen_groups:
                groups[getattr(u, key)].append(frames[u.id])
        moments = {group: self._moments(blocks) for group, blocks in groups.items()}
        chosen = [moments[getattr(u, key)] for u in utterances]
        return np.stack([mean for mean, _ in chosen]), np.stack([std for _, std in chosen])

    def _moments(self, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation (rows,) over the frames of some utterances."""
        values = np.concatenate([self.features.complete(block) for block in blocks], axis=1)
        std = values.std(axis=1, dtype=np.float64)
        std[std < 1e-6] = 1.0  # a constant coefficient stays zero
        return values.mean(axis=1, dtype=np.float64).astype(np.float32), std.astype(np.float32)
