"""Segments of utterances, standardised and ready for the model (Algorithm 2).

Static frames are slices of the utterance's; deltas are taken per segment, as if its wave had been
cut out first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from examples.errors import UserError
from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.feature_cache import Frames
from examples.ser.data.features import FRAMES_PER_S, MFCC_39
from examples.ser.data.standardize import Standardizer


def segment_starts(
    frames: int, stride_s: float, tail: str = "pad", window: int = MFCC_39.window
) -> np.ndarray:
    """Return the first frames (S,) of the windows over an utterance of `frames` frames.

    A window starts every `stride_s` seconds until one reaches the end. If the last one runs past
    the end, ``tail="pad"`` keeps its frames and ``"drop"`` drops it. An utterance shorter than a
    window always gives one segment.
    """
    stride = round(stride_s * FRAMES_PER_S) if np.isfinite(stride_s) else 0
    if not 1 <= stride <= window:
        raise UserError(
            f"expected a stride of 0.01 to {window / FRAMES_PER_S} s, got {stride_s} s; "
            "correct --train-stride or --test-stride"
        )
    if tail not in {"pad", "drop"}:
        raise ValueError(f"expected tail 'pad' or 'drop', got {tail!r}")
    if frames < 1:
        raise ValueError(f"expected 1 frame or more, got {frames}; leave the short clip out")
    beyond = max(0, frames - window)
    more = -(-beyond // stride) if tail == "pad" else beyond // stride
    return np.arange(more + 1) * stride


@dataclass(frozen=True)
class Segments:
    """S segments of utterances, ready for the model."""

    x: Tensor  # (S, 1, rows, width) float32: coefficient, frame; zero after the valid frames
    y: Tensor  # (S,) index in corpus.labels
    utterance: Tensor  # (S,) index in corpus.utterances
    speaker: Tensor  # (S,) index in corpus.speakers
    valid: Tensor  # (S,) frames before the padding

    def __len__(self) -> int:
        """Count the segments."""
        return len(self.y)

    def to(self, device: torch.device) -> Segments:
        """Copy to `device`."""
        return Segments(**{name: value.to(device) for name, value in vars(self).items()})

    def clips(self, corpus: Corpus) -> list[Utterance]:
        """Return the utterances of `corpus` that the segments are of, each once, in its order."""
        return [corpus.utterances[i] for i in self.utterance.unique().tolist()]


def make_segments(
    corpus: Corpus,
    utterances: Sequence[Utterance],
    frames: Frames,
    standardizer: Standardizer,
    *,
    stride_s: float,
    tail: str = "pad",
    held_out: bool = True,
) -> Segments:
    """Cut utterances of `corpus` into standardised segments, in their order.

    Pass `held_out=False` for the training side alone: otherwise utterances that the standardizer
    was fitted on are refused.
    """
    if held_out:
        standardizer.check_held_out(utterances)
    features = standardizer.features
    mean, std = standardizer.statistics(utterances, frames, corpus.utterances)
    owner, windows = [], defaultdict(list)  # valid frames -> [(segment, static window)]
    for i, u in enumerate(utterances):
        for start in segment_starts(frames[u.id].shape[1], stride_s, tail, features.window):
            window = frames[u.id][:, start : start + features.window]
            windows[window.shape[1]].append((len(owner), window))
            owner.append(i)
    # DIFF: Algorithm 2 zero-pads the wave; digital silence would be -100 dB in every mel band, an
    # outlier. We pad after standardisation, where zero is the mean ("none": a literal zero).
    x = np.zeros((len(owner), 1, features.rows, features.width), np.float32)
    owners, valid = np.array(owner), np.zeros(len(owner), np.int64)
    for length, group in windows.items():
        index = np.array([segment for segment, _ in group])
        block = features.complete(np.stack([window for _, window in group]))
        scaled = (block - mean[owners[index], :, None]) / std[owners[index], :, None]
        x[index, 0, :, :length] = scaled
        valid[index] = length
    place = {u.id: (n, corpus.labels.index(u.label)) for n, u in enumerate(corpus.utterances)}
    speaker_index = {speaker: n for n, speaker in enumerate(corpus.speakers)}
    facts = [(*place[u.id], speaker_index[u.speaker]) for u in utterances]
    utterance, y, speaker = torch.tensor(facts)[torch.from_numpy(owners)].T.contiguous()
    return Segments(torch.from_numpy(x), y, utterance, speaker, torch.from_numpy(valid))
