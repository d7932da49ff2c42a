"""Prosodic features of a clip whose silent ends are cut off.

53 rows a frame of 25 ms, every 10 ms: 20 MFCC and their deltas for the timbre, and 13 rows for what
the paper's MFCC omit or blur: pitch, level, and the shape of the spectrum.
"""

import librosa
import numpy as np

from examples.ser.data.audio import SAMPLE_RATE
from examples.ser.data.mfcc import DELTA_WIDTH

SPECTRUM = {"n_fft": 512, "win_length": 400, "hop_length": 160}
MEL = {"n_mels": 64, "fmin": 50.0, "fmax": 8000.0}
N_MFCC = 20
PITCH = {"fmin": 65.0, "fmax": 600.0, "frame_length": 1024, "hop_length": 160}  # Hz, samples
CONTRAST = {"fmin": 100.0, "n_bands": 5}
QUIET = 35.0  # dB below the loudest frame: a quieter end of a clip is silent
MARGIN = 5  # frames kept before and after the speech
FLOOR = 1e-6  # added before a logarithm
PARAMETERS = (SPECTRUM, MEL, N_MFCC, PITCH, CONTRAST, QUIET, MARGIN, FLOOR)


def trim(signal: np.ndarray) -> np.ndarray:
    """Cut the silent ends off a signal (n,) at 16 kHz."""
    rms = librosa.feature.rms(y=signal, frame_length=400, hop_length=160)[0]
    level = librosa.power_to_db(rms**2, top_db=None)
    loud = np.flatnonzero(level > level.max() - QUIET)
    first, last = max(0, loud[0] - MARGIN), loud[-1] + 1 + MARGIN
    return signal[first * 160 : last * 160]


def prosody(signal: np.ndarray) -> np.ndarray:
    """Return MFCC and spectral and prosodic rows (33, F) float32 of a trimmed signal at 16 kHz.

    Rows: 20 MFCC; log pitch (YIN, Hz), log RMS, spectral centroid, bandwidth and roll-off (Hz),
    log flatness, zero-crossing rate; spectral contrast of six bands (dB).
    """
    signal = trim(signal)
    spectrum = np.abs(librosa.stft(signal, **SPECTRUM))
    shape = {"S": spectrum, "sr": SAMPLE_RATE}
    mel = librosa.feature.melspectrogram(S=spectrum**2, sr=SAMPLE_RATE, **MEL)
    short = {"frame_length": 400, "hop_length": 160}
    rows = [
        librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=None), n_mfcc=N_MFCC),
        np.log(librosa.yin(signal, sr=SAMPLE_RATE, **PITCH))[None],
        np.log(librosa.feature.rms(y=signal, **short) + FLOOR),
        librosa.feature.spectral_centroid(**shape),
        librosa.feature.spectral_bandwidth(**shape),
        librosa.feature.spectral_rolloff(**shape),
        np.log(librosa.feature.spectral_flatness(S=spectrum) + FLOOR),
        librosa.feature.zero_crossing_rate(signal, **short),
        librosa.feature.spectral_contrast(**shape, **CONTRAST),
    ]
    return np.concatenate(rows).astype(np.float32)


def add_timbre_deltas(frames: np.ndarray) -> np.ndarray:
    """Append the deltas of the MFCC: (..., 33, F) -> (..., 53, F), edges repeated."""
    timbre = frames[..., :N_MFCC, :]
    deltas = librosa.feature.delta(timbre, width=DELTA_WIDTH, mode="nearest")
    return np.concatenate([frames, deltas], axis=-2)
