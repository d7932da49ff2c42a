"""Log-mel energies: 64 bands in frames of 25 ms every 10 ms, the plane that `--plane` reads."""

import librosa
import numpy as np

from examples.ser.data.audio import SAMPLE_RATE

SPECTRUM = {"n_fft": 512, "win_length": 400, "hop_length": 160}  # 25 and 10 ms, centred
MEL = {"n_mels": 64, "fmin": 50.0, "fmax": 8000.0}  # Hz
FLOOR = 1e-10  # of the power, before the logarithm
PARAMETERS = (SPECTRUM, MEL, FLOOR)


def log_mel(signal: np.ndarray) -> np.ndarray:
    """Return log-mel energies (64, F) float32 in dB of a signal (n,) at 16 kHz, F = 1 + n // 160.

    Frame i is centred at sample 160 i; silence surrounds the signal.
    """
    power = librosa.feature.melspectrogram(
        y=signal, sr=SAMPLE_RATE, center=True, power=2.0, **SPECTRUM, **MEL
    )
    decibel = librosa.power_to_db(power, ref=1.0, amin=FLOOR, top_db=None)
    return np.asarray(decibel, np.float32)
