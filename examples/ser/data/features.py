"""The feature sets that a run chooses from: the paper's MFCC, prosody, and log-mel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from examples.ser.data import logmel, mfcc, prosody
from examples.ser.data.audio import SAMPLE_RATE

FRAMES_PER_S = SAMPLE_RATE // 160  # of every feature set


@dataclass(frozen=True)
class FeatureSet:
    """How features are extracted from a clip, and how long its segments are."""

    name: str
    extract: Callable[[np.ndarray], np.ndarray]  # signal (n,) at 16 kHz -> frames (K, F) float32
    parameters: Sequence[object]  # of the extraction, for the cache's key; fit for JSON
    cached_rows: int  # K
    complete: Callable[[np.ndarray], np.ndarray]  # (..., K, F) -> (..., rows, F)
    rows: int  # of a segment
    row_groups: Mapping[str, int]  # what the rows are, from the first on: name, number
    window: int  # frames that a segment spans
    width: int  # frames of a segment, zero after the window


# 13 static, 13 delta, 13 delta-delta; 198 frames are full within 2 s, the paper zero-pads to 200.
MFCC_39 = FeatureSet(
    "mfcc",
    mfcc.mfcc,
    (mfcc.MFCC, mfcc.FRAMING),
    cached_rows=13,
    complete=mfcc.add_deltas,
    rows=39,
    row_groups={"13 MFCC": 13, "delta": 13, "delta-delta": 13},
    window=198,
    width=200,
)
# Segments of 3.2 s, so that most clips of acted speech are one segment.
PROSODY = FeatureSet(
    "prosody",
    prosody.prosody,
    prosody.PARAMETERS,
    cached_rows=33,
    complete=prosody.add_timbre_deltas,
    rows=53,
    row_groups={"20 MFCC": 20, "pitch, level, spectrum": 13, "delta of MFCC": 20},
    window=320,
    width=320,
)
LOG_MEL = FeatureSet(
    "log-mel",
    logmel.log_mel,
    logmel.PARAMETERS,
    cached_rows=64,
    complete=lambda frames: frames,
    rows=64,
    row_groups={"64 mel bands": 64},
    window=200,
    width=200,
)
FEATURES = {features.name: features for features in (MFCC_39, PROSODY, LOG_MEL)}
