"""A small SYNTHETIC speech corpus, so that the recipe runs on a machine without any data.

``python -m examples.ser.synthetic OUT --speakers 8 --per-class 5 --seed 0`` writes WAV clips at
16 kHz and OUT/manifest.csv. No person spoke them: a source-filter voice (a glottal pulse train
with jitter and breath noise, through formant resonators, in a syllable rhythm) whose pitch, rate,
energy and formants vary with speaker and emotion. Accuracy on it says that the recipe learns, and
nothing about emotion in speech. The corpus is named "synthetic" in all rows.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import lfilter, sosfilt

from examples.errors import UserError, user_errors

RATE = 16_000  # Hz
DURATION = (1.2, 3.2)  # s
VOWELS = np.array(  # formants F1 to F4 of a man's /a e i o u/, Hz
    [
        [730, 1090, 2440, 3400],
        [530, 1840, 2480, 3500],
        [270, 2290, 3010, 3600],
        [570, 840, 2410, 3300],
        [300, 870, 2240, 3300],
    ],
    dtype=float,
)
BANDWIDTHS = np.array([80.0, 100.0, 140.0, 200.0])  # Hz


@dataclass(frozen=True)
class Style:
    """How an emotion changes a voice, relative to the speaker's neutral one."""

    pitch: float  # factor on the mean fundamental frequency
    swing: float  # pitch movement, as a share of the mean
    rate: float  # syllables per second
    level: float  # dB
    tilt: float  # pole of the glottal low-pass: duller towards 1
    formant: float  # factor on the first formant (an open mouth raises it)
    jitter: float  # pitch noise, as a share
    breath: float  # noise in the source, as a share of the pulses


STYLES = {
    "neutral": Style(1.00, 0.08, 4.2, -3.0, 0.93, 1.00, 0.010, 0.04),
    "happy": Style(1.22, 0.22, 4.8, 0.0, 0.90, 1.06, 0.012, 0.05),
    "sad": Style(0.92, 0.05, 3.2, -7.0, 0.955, 0.96, 0.015, 0.10),
    "angry": Style(1.15, 0.16, 5.0, 3.0, 0.87, 1.12, 0.025, 0.04),
}
SPREAD = 0.25  # how far a clip's style varies towards the others: keeps the task hard


def _voice(speaker: int, seed: int) -> dict[str, float]:
    """Draw a speaker: mean pitch (Hz), vocal tract factor, rate factor, level (dB), tilt."""
    rng = np.random.default_rng([seed, speaker])
    female = speaker % 2
    return {
        "pitch": (205.0 if female else 118.0) * np.exp(rng.normal(0, 0.10)),
        "tract": (1.16 if female else 1.0) * np.exp(rng.normal(0, 0.03)),
        "rate": np.exp(rng.normal(0, 0.08)),
        "level": rng.normal(0, 1.5),
        "tilt": rng.normal(0, 0.008),
    }


def _wander(label: str, rng: np.random.Generator) -> Style:
    """Draw a clip's style: its emotion's, varied at random towards the others'."""
    table = np.array([list(vars(style).values()) for style in STYLES.values()])
    own = np.array(list(vars(STYLES[label]).values()))
    drawn = own + SPREAD * rng.normal(size=own.shape) * table.std(axis=0)
    return Style(*drawn.tolist())


def synthesize(label: str, speaker: int, take: int, seed: int = 0) -> np.ndarray:
    """Return one synthetic clip (n,) float32 at 16 kHz, 1.2 to 3.2 s, the same for the same four.

    Even speakers have a man's pitch and tract, odd ones a woman's.
    """
    rng = np.random.default_rng([seed, speaker, list(STYLES).index(label), take])
    voice, style = _voice(speaker, seed), _wander(label, rng)
    n = int(RATE * rng.uniform(*DURATION))
    time = np.arange(n) / RATE
    # Rhythm: one rise and fall of energy per syllable, each with its own vowel.
    beat = time * style.rate * voice["rate"] + rng.uniform()
    syllable = beat.astype(int)
    gate = np.sin(np.pi * (beat % 1.0)) ** 0.7
    vowel = rng.integers(len(VOWELS), size=syllable[-1] + 1)[syllable]  # (n,)
    # Source: a pulse wherever the phase of the pitch contour passes an integer.
    accent = rng.normal(size=syllable[-1] + 1)[syllable]
    melody = np.sin(2 * np.pi * beat / 2.7) + 0.5 * accent - time / time[-1]
    noise = lfilter([0.02], [1, -0.98], rng.normal(size=n)) * 10
    contour = voice["pitch"] * style.pitch * (1 + style.swing * melody + style.jitter * noise)
    phase = np.cumsum(np.maximum(contour, 50.0)) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = (pulses + style.breath * 0.3 * rng.normal(size=n)) * gate
    pole = min(style.tilt + voice["tilt"], 0.99)
    source = lfilter([1 - pole], [1, -pole], source)
    # Filter: the resonators of each vowel over its syllables.
    wave = np.zeros(n)
    for index, formants in enumerate(VOWELS * voice["tract"]):
        if (vowel == index).any():
            raised = formants * np.array([style.formant, 1.0, 1.0, 1.0])
            wave += sosfilt(_resonators(raised), np.where(vowel == index, source, 0.0))
    wave *= 0.08 * 10 ** ((style.level + voice["level"]) / 20) / np.sqrt((wave**2).mean())
    wave += 10 ** (rng.uniform(-60, -50) / 20) * rng.normal(size=n)  # room noise
    return np.clip(wave, -0.99, 0.99).astype(np.float32)


def _resonators(formants: np.ndarray) -> np.ndarray:
    """Second-order sections (4, 6) of a cascade of formant resonators, gain 1 at 0 Hz."""
    radius = np.exp(-np.pi * BANDWIDTHS / RATE)
    angle = 2 * np.pi * np.minimum(formants, 0.47 * RATE) / RATE
    a1, a2 = -2 * radius * np.cos(angle), radius**2
    zero, one = np.zeros_like(a1), np.ones_like(a1)
    return np.stack([1 + a1 + a2, zero, zero, one, a1, a2], axis=1)


def write_synthetic(
    out: str | Path, *, speakers: int = 8, per_class: int = 5, seed: int = 0
) -> Path:
    """Write `per_class` clips per speaker and emotion; return the path of OUT/manifest.csv.

    Speakers alternate male and female; each pair is a fold.
    """
    if speakers < 4 or speakers % 2 or per_class < 1:
        raise UserError(
            f"expected an even number of 4 speakers or more and 1 clip or more per class, got "
            f"{speakers} and {per_class}; raise --speakers or --per-class"
        )
    out = Path(out)
    rows = []
    for speaker in range(speakers):
        name = f"S{speaker + 1:02}"
        (out / name).mkdir(parents=True, exist_ok=True)
        for label in STYLES:
            for take in range(per_class):
                path = Path(name) / f"synthetic_{name}_{label}_{take + 1:02}.wav"
                soundfile.write(out / path, synthesize(label, speaker, take, seed), RATE, "PCM_16")
                gender = "female" if speaker % 2 else "male"
                rows.append([path.as_posix(), label, name, gender, speaker // 2, "synthetic"])
    manifest = out / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "speaker", "gender", "fold", "corpus"])
        writer.writerows(rows)
    return manifest


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--speakers", type=int, default=8, help="even, half of them women (8)")
    parser.add_argument("--per-class", type=int, default=5, help="per speaker and emotion (5)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other voices (0)")
    args = parser.parse_args()
    manifest = write_synthetic(
        args.out, speakers=args.speakers, per_class=args.per_class, seed=args.seed
    )
    print(f"SYNTHETIC corpus (no person spoke it) of {args.speakers} speakers: {manifest}")


if __name__ == "__main__":
    with user_errors():
        main()
