"""The paper's features: 13 MFCC with delta and delta-delta, in frames of 25 ms every 10 ms.

Frame i covers samples 160 i to 160 i + 399 at 16 kHz (no centring), so the static frames of a 2 s
segment that starts on a frame are a slice of the utterance's, and nothing is extracted twice.
"""

import librosa
import numpy as np

from examples.ser.data.audio import SAMPLE_RATE

MFCC = {"n_mfcc": 13, "n_mels": 26}
FRAMING = {"n_fft": 400, "win_length": 400, "hop_length": 160, "window": "hamming"}  # 25 and 10 ms
DELTA_WIDTH = 9  # frames


def mfcc(signal: np.ndarray) -> np.ndarray:
    """Return static MFCC (13, F) float32 of a signal (n,) at 16 kHz, F = 1 + (n - 400) // 160."""
    power = librosa.feature.melspectrogram(
        y=signal, sr=SAMPLE_RATE, n_mels=MFCC["n_mels"], center=False, power=2.0, **FRAMING
    )
    # top_db=None: a floor below the utterance's loudest frame would tie all frames together.
    decibel = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
    return librosa.feature.mfcc(S=decibel, n_mfcc=MFCC["n_mfcc"]).astype(np.float32)


def add_deltas(static: np.ndarray) -> np.ndarray:
    """Append delta and delta-delta: (..., 13, F) -> (..., 39, F), 9 frames wide, edges repeated."""
    orders = [
        librosa.feature.delta(static, width=DELTA_WIDTH, order=order, mode="nearest")
        for order in (1, 2)
    ]
    return np.concatenate([static, *orders], axis=-2)
