"""A made corpus in the style of EMO-DB: names NN + text + emotion letter + take, 44.1 kHz stereo.

Unlike the synthetic corpus in all that a loader meets: no manifest, no folders of speakers, one
speaker with few emotions, classes of unequal size, genders that are only partly known.
"""

import numpy as np
import soundfile

RATES = (44_100, 22_050)  # Hz
TAKES = {"W": 3, "F": 2, "T": 2, "N": 1}  # clips of each speaker; W is the largest class
NAMES = ("--rename", "W=anger", "F=joy", "T=sadness", "N=neutral")
PATTERN = r"(?P<speaker>\d\d)[ab]\d\d(?P<label>[A-Z])[a-f]$"
PITCH = {"W": 260.0, "F": 320.0, "T": 140.0, "N": 180.0}  # Hz


def write_acted(folder, speakers=("03", "08", "09", "10", "11", "12"), seconds=0.9):
    """Write the clips of these speakers; the last one was never neutral. Return the folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for s, speaker in enumerate(speakers):
        for letter, takes in TAKES.items():
            if letter == "N" and speaker == speakers[-1]:
                continue
            for take in range(takes):
                rate = RATES[s % 2]
                time = np.arange(int(rate * seconds * rng.uniform(0.9, 1.2))) / rate
                tone = np.sin(2 * np.pi * PITCH[letter] * (1 + 0.03 * s) * time) ** 3
                wave = 0.3 * tone + 0.02 * rng.normal(size=time.size)
                name = f"{speaker}{'ab'[take % 2]}0{take + 1}{letter}{'abc'[take]}.wav"
                soundfile.write(folder / name, np.stack([wave, 0.5 * wave], 1), rate)
    (folder / "._03a01Wa.wav").write_bytes(b"macOS")
    return folder
